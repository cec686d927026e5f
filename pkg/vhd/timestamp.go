package vhd

import (
	"fmt"
	"strconv"
	"time"
)

// epoch is 2000-01-01T00:00:00Z, the zero of the format's time stamps, as a Unix time.
const epoch = 946684800

// Timestamp is a time in seconds since 2000-01-01 UTC. It can hold times until 2136.
type Timestamp uint32

// TimestampOf converts a time. It returns an error for a time that the format cannot hold.
func TimestampOf(t time.Time) (Timestamp, error) {
	s := t.Unix() - epoch
	if s < 0 || s > 1<<32-1 {
		return 0, fmt.Errorf("time %s does not fit a VHD: want 2000-01-01 to 2136-02-07", t.UTC().Format(time.RFC3339))
	}
	return Timestamp(s), nil
}

// NearestTimestamp returns the time stamp that is nearest to a time.
func NearestTimestamp(t time.Time) Timestamp { return Timestamp(NearestTime(t).Unix() - epoch) }

// NearestTime returns the time nearest to t that the format can hold.
func NearestTime(t time.Time) time.Time {
	switch s := t.Unix() - epoch; {
	case s < 0:
		return Timestamp(0).Time()
	case s > 1<<32-1:
		return Timestamp(1<<32 - 1).Time()
	}
	return t
}

// Time converts the time stamp to a time in UTC.
func (t Timestamp) Time() time.Time { return time.Unix(epoch+int64(t), 0).UTC() }

// ParseTime parses a time in RFC 3339 format, or in seconds since 1970. The format may not be
// able to hold the result.
func ParseTime(s string) (time.Time, error) {
	if sec, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(sec, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("time stamp '%s': want RFC 3339, such as 2026-01-31T12:00:00Z, or seconds since 1970", s)
	}
	return t, nil
}
