package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func newCompletionCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the completion script of a shell",
		Long: `completion prints a script that completes commands, flags, statuses and the
routes of the configuration. It never opens the database.`,
		Example: `  source <(orchestrate completion bash)
  orchestrate completion zsh > "${fpath[1]}/_orchestrate"
  orchestrate completion fish > ~/.config/fish/completions/orchestrate.fish
  orchestrate completion powershell | Out-String | Invoke-Expression`,
		Args:              args(1, 1, "the name of a shell: "+strings.Join(shells(), ", ")),
		ValidArgsFunction: cobra.FixedCompletions(shells(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeCompletion(cmd.Root(), args[0], a.Out)
		},
	}
}

func shells() []string { return []string{"bash", "zsh", "fish", "powershell"} }

func writeCompletion(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(w)
	}
	return usagef("unknown shell %q: want one of %s", shell, strings.Join(shells(), ", "))
}
