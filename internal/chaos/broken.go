//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// MutantVariable names the defect that a program made by BuildBroken has.
const MutantVariable = "CHAOS_MUTANT"

// Edit replaces a piece of the source, which must be there exactly once.
type Edit struct {
	File     string // below the module
	Old, New string
}

// mutantFile is added to every package that is edited. The file can't be there:
// the linker would meet two of it.
const mutantFile = `package %s

import "os"

// mutant tells whether this process is to have a defect.
func mutant(name string) bool { return os.Getenv(%q) == name }

var _ = mutant
`

// BuildBroken builds the program from edited source, in a directory of this name
// in dir: a defect behind each mutant("…") in the edits, which MutantVariable
// chooses when it runs. The source of the released program has no door for them:
// the compiler is told to read other files instead (go build -overlay).
func BuildBroken(ctx context.Context, dir, name string, edits []Edit) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	replaced := map[string]string{} // path in the module to the path of what is read instead
	texts := map[string][]byte{}
	for _, e := range edits {
		path := filepath.Join(root, e.File)
		if texts[path] == nil {
			if texts[path], err = os.ReadFile(path); err != nil { //nolint:gosec // our own source
				return "", err
			}
		}
		if n := bytes.Count(texts[path], []byte(e.Old)); n != 1 {
			return "", fmt.Errorf("%s has %d times what a mutant replaces, want once: %s", e.File, n, e.Old)
		}
		texts[path] = bytes.Replace(texts[path], []byte(e.Old), []byte(e.New), 1)
		added := filepath.Join(filepath.Dir(path), "mutant_chaos.go")
		texts[added] = fmt.Appendf(nil, mutantFile, filepath.Base(filepath.Dir(path)), MutantVariable)
	}
	var errs []error
	for path, text := range texts {
		other := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, root+"/"), "/", "_")+".txt")
		errs = append(errs, os.WriteFile(other, text, 0o600))
		replaced[path] = other
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	errs = append(errs, err, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return build(ctx, filepath.Join(dir, "orchestrate"), "-overlay", filepath.Join(dir, "overlay.json"))
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "orchestrate").Output()
	return string(bytes.TrimSpace(out)), err
}

// SkewVariable sets the wall clock of a program built with SettableClock wrong, by
// a duration such as -1h, or by the one that a file holds at the moment.
const SkewVariable = "CHAOS_SKEW"

// SettableClock is no defect of the program but of its machine.
var SettableClock = []Edit{{
	File: "internal/queue/time.go",
	Old:  `func Now() Time { return At(Clock()) }`,
	New: `func Now() Time { return At(Clock()).Add(skew()) }

func skew() time.Duration {
	v := os.Getenv("` + SkewVariable + `")
	if strings.HasPrefix(v, "/") {
		text, err := os.ReadFile(v)
		if err != nil {
			panic(err)
		}
		v = strings.TrimSpace(string(text))
	}
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		panic(err)
	}
	return d
}`,
}, {
	File: "internal/queue/time.go",
	Old: `	"fmt"
	"time"
)`,
	New: `	"fmt"
	"os"
	"strings"
	"time"
)`,
}}

// LessDurable has commits of SQLite return before the disk has them.
var LessDurable = []Edit{{
	File: "internal/store/sqlite.go",
	Old:  `"synchronous(FULL)"`,
	New:  `"synchronous(NORMAL)"`,
}, {
	File: "internal/store/sqlite.go",
	Old:  `{"synchronous", "2"}`,
	New:  `{"synchronous", "1"}`,
}}
