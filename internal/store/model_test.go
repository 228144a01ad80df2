package store

import (
	"flag"
	"os"
	"strconv"
	"testing"

	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/store/storetest"
)

// TestModel runs random operations on each kind of store and compares with a
// model. MODEL_STEPS=n runs n on each, where time allows more: make model.
func TestModel(t *testing.T) {
	set := func(name, value string) {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := f.Value.Set(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	rounds := "200" // of so many operations
	if os.Getenv("MODEL_STEPS") != "" {
		rounds = "300" // states of many steps are met, too
	}
	set("rapid.steps", rounds)
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		s := open(t, "")
		// What is on disk is no question here, and each sync would be waited for.
		if _, err := s.writes.Exec("PRAGMA synchronous = OFF"); err != nil {
			t.Fatal(err)
		}
		storetest.Model(t, s, modelSteps(t, 7800))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		storetest.Model(t, openServer(t, ""), modelSteps(t, 1300))
	})
	t.Run("pooler", func(t *testing.T) {
		t.Parallel()
		pooler := pgtest.NewPooler(t, migrated(t), 2)
		storetest.Model(t, openServer(t, pooler.URL()+"&default_query_exec_mode=exec"), modelSteps(t, 900))
	})
}

func modelSteps(t *testing.T, otherwise int) int {
	v := os.Getenv("MODEL_STEPS")
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("MODEL_STEPS=%s: want how many", v)
	}
	return n
}
