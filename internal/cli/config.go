package cli

import (
	"github.com/spf13/cobra"

	"orchestrate/internal/config"
)

func newConfigCmd(a *App) *cobra.Command {
	cmd := newGroup("config", "Check the configuration",
		`The configuration file is the one of --config, ORCHESTRATE_CONFIG,
$XDG_CONFIG_HOME/orchestrate/config.yaml or /etc/orchestrate/config.yaml, never
one of the working directory: it names commands to run.`)
	cmd.AddCommand(newConfigValidateCmd(a))
	return cmd
}

func newConfigValidateCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration and tell every mistake in it",
		Long: `validate reads the configuration as serve would, with its environment and its
secrets, and compiles the routes. Mistakes are told with file and line, and the
exit code is 78. Nothing is started, and the database stays closed.`,
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
	Routes   []string `json:"routes"`
	Secrets  int      `json:"secrets"` // how many; none of them is shown
}

func runConfigValidate(a *App) error {
	w, err := a.wire()
	if err != nil {
		return err
	}
	secrets, err := config.ResolveSecrets(w.config.Secrets)
	if err != nil {
		return err
	}
	v := validated{Hash: w.config.Hash, Database: w.config.Database, Routes: w.queue.RouteNames(), Secrets: len(secrets)}
	from := "no file, only defaults and environment"
	if w.config.File != "" {
		v.File, from = &w.config.File, w.config.File
	}
	if a.output != formatTable {
		return a.printJSON(v)
	}
	return a.printLine("the configuration is valid: %s; %s, %s", from, count(len(v.Routes), "route"), count(len(secrets), "secret"))
}
