package samples

import "testing"

// Geometry is the geometry of disks of First to Last sectors of 512 bytes.
type Geometry struct {
	First, Last int64
	Spec        string // cylinders/heads/sectors of the specification; "" if unknown
	QEMU        string // geometry in a new image of qemu-img 7.2; "" if it refuses the size
	QEMUSectors int64  // size of that image
	Note        string
}

// Geometries returns the vectors in testdata/vectors/geometry.csv.
func Geometries(t testing.TB) []Geometry {
	t.Helper()
	var all []Geometry
	for _, r := range table(t, "vectors/geometry.csv") {
		g := Geometry{First: number(t, r["first"]), Last: number(t, r["last"]), Spec: r["spec"], QEMU: r["qemu"], Note: r["note"]}
		if g.QEMU != "" {
			g.QEMUSectors = number(t, r["qemu_sectors"])
		}
		all = append(all, g)
	}
	return all
}
