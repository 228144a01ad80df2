package cli

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionInfo is what the build and Go stamped into the binary.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"` // built from a tree with changes
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func newVersionCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "version prints what this program is and what it was built from.",
		Example: "  orchestrate version -o json",
		Args:    args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			v := readVersion(a.Version)
			if a.output != formatTable {
				return a.printJSON(v)
			}
			commit := ""
			if v.Commit != "" {
				commit = ", commit " + v.Commit
			}
			return a.printLine("orchestrate %s%s, %s, %s/%s", v.Version, commit, v.Go, v.OS, v.Arch)
		},
	}
}

func readVersion(built string) versionInfo {
	v := versionInfo{Version: built, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = cmp.Or(v.Version, info.Main.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
