package qcow2

import "sync"

// clusterCacheBytes bounds the memory of decompressed clusters that an image keeps, unless
// clusters are so large that only a few fit.
const clusterCacheBytes = 4 << 20

// clusterCache keeps the compressed clusters that were decompressed last. It is safe for
// concurrent use: goroutines that want the same cluster wait for the one that decompresses
// it.
type clusterCache struct {
	mu          sync.Mutex
	max         int
	clusterSize int64
	clusters    map[int64]*unpackedCluster
	clock       int64
}

type unpackedCluster struct {
	once sync.Once
	b    []byte
	err  error
	used int64
}

func newClusterCache(clusterSize int64) *clusterCache {
	return &clusterCache{
		max: int(max(4, min(clusterCacheBytes/clusterSize, 256))), clusterSize: clusterSize, clusters: map[int64]*unpackedCluster{},
	}
}

// get returns the cluster that is stored at an offset of the file, as fill decompresses it.
// The caller must not change it.
func (c *clusterCache) get(host int64, fill func([]byte) error) ([]byte, error) {
	c.mu.Lock()
	u := c.clusters[host]
	if u == nil {
		if len(c.clusters) >= c.max {
			c.evict()
		}
		u = &unpackedCluster{}
		c.clusters[host] = u
	}
	c.clock++
	u.used = c.clock
	c.mu.Unlock()
	u.once.Do(func() {
		u.b = make([]byte, c.clusterSize)
		u.err = fill(u.b)
	})
	if u.err != nil {
		c.mu.Lock()
		if c.clusters[host] == u { // a later read tries again
			delete(c.clusters, host)
		}
		c.mu.Unlock()
	}
	return u.b, u.err
}

// evict forgets the cluster that was not used for the longest time. The lock is held.
func (c *clusterCache) evict() {
	oldest := int64(-1)
	for host, u := range c.clusters {
		if oldest < 0 || u.used < c.clusters[oldest].used {
			oldest = host
		}
	}
	delete(c.clusters, oldest)
}
