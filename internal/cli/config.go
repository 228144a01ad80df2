package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
)

func newConfigCmd(a *App) *cobra.Command {
	cmd := newGroup("config", "Make, show and check the configuration",
		`The configuration file is the one of --config, ORCHESTRATE_CONFIG,
$XDG_CONFIG_HOME/orchestrate/config.yaml or /etc/orchestrate/config.yaml, never
one of the working directory: it names commands to run.`)
	cmd.AddCommand(newConfigInitCmd(a), newConfigShowCmd(a), newConfigValidateCmd(a))
	return cmd
}

func newConfigValidateCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration and tell every mistake in it",
		Long: `validate reads the configuration as serve would, with its environment and its
secrets, and compiles the routes. Mistakes are told with file, line and column,
and the exit code is 78; what is odd, but may be meant, is told on standard error.
Nothing is started, and the database stays closed.`,
		Example: `  orchestrate config validate
  orchestrate config validate --config new.yaml -o json`,
		Args: args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return runConfigValidate(a) },
	}
}

// validated is what validate prints of a good configuration.
type validated struct {
	File     *string  `json:"file"`
	Hash     string   `json:"config_hash"`
	Database string   `json:"database"`
	Sources  []string `json:"sources"`
	Routes   []string `json:"routes"`
	Secrets  int      `json:"secrets"` // how many, of all sources; none of them is shown
	Warnings []string `json:"warnings"`
}

func runConfigValidate(a *App) error {
	a.live, a.runs = true, func(string) bool { return true }
	w, err := a.wire()
	if err != nil {
		return err
	}
	secrets, err := w.secrets()
	if err != nil {
		return err
	}
	v := validated{
		Hash: w.config.Hash, Database: w.config.Database, Sources: w.config.SourceNames(), Routes: w.queue.RouteNames(),
		Warnings: append([]string{}, w.warnings()...),
	}
	if w.config.Empty && w.config.File != "" {
		v.Warnings = append(v.Warnings, w.config.File+" is empty; a reload would refuse it")
	}
	for _, all := range secrets {
		v.Secrets += len(all)
		for _, s := range all {
			if why := s.Warning(); why != "" {
				v.Warnings = append(v.Warnings, why)
			}
		}
	}
	from := "no file, only defaults and environment"
	if w.config.File != "" {
		v.File, from = &w.config.File, w.config.File
	}
	if a.documents() {
		return a.printJSON(v)
	}
	err = a.printLine("the configuration is valid: %s; %s, %s, %s", from,
		count(len(v.Routes), "route"), count(len(v.Sources), "source"), count(v.Secrets, "secret"))
	for _, text := range v.Warnings {
		a.note("warning: %s", printable(text))
	}
	return err
}

func newConfigShowCmd(a *App) *cobra.Command {
	var origins bool
	cmd := printsList(&cobra.Command{
		Use:   "show",
		Short: "Print the effective configuration",
		Long: `show prints the configuration that the other commands would use, as YAML: every key
with its value, whether it comes from a flag, a variable, the file or is a default.
With --origins it prints a table of keys, values and where each comes from.

Secrets stay references. What may hold one is masked: the values of variables of
commands, and the user and the query of a URL.`,
		Example: `  orchestrate config show
  orchestrate config show --origins
  orchestrate config show --jq '.routes[] | .name'`,
		Args: args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return runConfigShow(a, origins) },
	})
	cmd.Flags().BoolVar(&origins, "origins", false, "tell where each value comes from")
	return cmd
}

func runConfigShow(a *App, origins bool) error {
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if !origins {
		switch {
		case a.output == formatTable:
			a.output = formatYAML
		case !a.documents():
			return usagef("-o %s lists keys, so it goes with --origins", a.output)
		}
		return a.printJSON(c.Show())
	}
	cols := narrow(columns("KEY", "VALUE", "ORIGIN"), "VALUE")
	l := newList(a, cols, func(s config.Setting) []string {
		return []string{s.Key, strings.Join(strings.Fields(s.Value), " "), s.Origin}
	})
	for _, s := range c.Settings() {
		if err := l.Add(s); err != nil {
			return err
		}
	}
	return l.Close()
}
