package queue

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"
)

// Time is an instant in Unix milliseconds, as the database keeps it. Zero is
// no time: NULL in the database, null in JSON.
type Time int64

// Clock is the wall clock, with Go's monotonic reading: the one place where
// this program asks what time it is.
func Clock() time.Time { return time.Now() }

// Now is the time by this machine's wall clock, to the millisecond. What is
// stored is told by Store.Now.
func Now() Time { return At(Clock()) }

// At converts; the zero time.Time becomes no time.
func At(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMilli())
}

// Std converts to a time.Time in UTC.
func (t Time) Std() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Add moves t by d, to the millisecond.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Milliseconds()) }

// Sub is how long after u t is.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t-u) * time.Millisecond }

// String is RFC 3339 in UTC with milliseconds; no time is empty.
func (t Time) String() string {
	if t == 0 {
		return ""
	}
	return t.Std().Format("2006-01-02T15:04:05.000Z07:00")
}

// MarshalJSON writes the form of String; no time is null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(b []byte) error {
	var std *time.Time
	if err := json.Unmarshal(b, &std); err != nil {
		return err
	}
	*t = 0
	if std != nil {
		*t = At(*std)
	}
	return nil
}

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) { return orNull(int64(t)) }

// Scan implements sql.Scanner.
func (t *Time) Scan(v any) error { return scanInt((*int64)(t), v) }

// Int is a number from outside that may be absent: 0 stands for absent, as
// GitHub's numbers and ids start at 1.
type Int int64

// MarshalJSON writes null for an absent number.
func (n Int) MarshalJSON() ([]byte, error) {
	if n == 0 {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%d", n), nil
}

// Value implements driver.Valuer.
func (n Int) Value() (driver.Value, error) { return orNull(int64(n)) }

// Scan implements sql.Scanner.
func (n *Int) Scan(v any) error { return scanInt((*int64)(n), v) }

func orNull(n int64) (driver.Value, error) {
	if n == 0 {
		return nil, nil
	}
	return n, nil
}

func scanInt(dst *int64, v any) error {
	switch v := v.(type) {
	case nil:
		*dst = 0
	case int64:
		*dst = v
	default:
		return fmt.Errorf("integer column holds %T", v)
	}
	return nil
}
