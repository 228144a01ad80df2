package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/config"
)

const rootLong = `orchestrate is a durable inbox for GitHub webhooks: it stores every delivery before
it answers, runs a command for each that a route wants, with retries and dead
letters, and lets you see and replay everything.

Settings come from flags, then from the environment (ORCHESTRATE_LISTEN for the
key listen, ORCHESTRATE_PROCESSOR_CONCURRENCY for processor.concurrency), then
from the configuration file, then from defaults that work on one machine.

Results go to standard output, everything else to standard error.`

const rootExample = `  orchestrate serve                              receive webhooks and process them
  orchestrate events send push                   post a signed example to it
  orchestrate events list --status dead_letter   what needs you
  orchestrate events show 1842                   why
  orchestrate events retry 1842                  run it again`

func newRootCmd(a *App) *cobra.Command {
	a.asked, a.output, a.color, a.timeout = formatTable, formatTable, colorAuto, defaultTimeout
	cmd := newGroup("orchestrate", "A durable inbox for GitHub webhooks", rootLong)
	cmd.Example = rootExample
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetIn(a.In)
	cmd.SetOut(a.Out)
	cmd.SetErr(a.Err)
	cmd.SetFlagErrorFunc(flagError)
	// Runs for shell completion, too: it must not print or load.
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		a.flags = cmd.Flags()
		return a.settleOutput(cmd)
	}
	a.addGlobalFlags(cmd.PersistentFlags())
	a.completeGlobalFlags(cmd)

	addGroup(cmd, "Run:", printsNoResult(newServeCmd(a)), printsNoResult(newProcessCmd(a)))
	addGroup(cmd, "Look and act:", newEventsCmd(a), newStatusCmd(a), newCleanupCmd(a))
	addGroup(cmd, "Set up:", newConfigCmd(a), newRoutesCmd(a), newSecretCmd(a), newMigrateCmd(a), newBackupCmd(a), newRestoreCmd(a), printsNoResult(newCompletionCmd(a)))
	cmd.AddCommand(newVersionCmd(a))
	cmd.AddCommand(newTopics()...)
	cmd.SetHelpCommand(newHelpCmd())
	cmd.SetHelpFunc(plainHelp(cmd.HelpFunc()))
	return cmd
}

// flagError is a usage error. The value is left to the flag's own check, if
// that names it, or chose not to: an address may hold a password.
func flagError(cmd *cobra.Command, err error) error {
	see := "; see: " + cmd.CommandPath() + " --help"
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return usagef("%s%s", err.Error(), see)
	}
	flag, value, why := invalid.GetFlag(), invalid.GetValue(), invalid.Unwrap().Error()
	if flag.Annotations[keyAnnotation] != nil || strings.Contains(why, strconv.Quote(value)) {
		return usagef("--%s: %s%s", flag.Name, why, see)
	}
	return usagef("--%s %q: %s%s", flag.Name, value, why, see)
}

// notEmpty refuses flags that were given without a value: it is a variable of
// a script that was not set, and what the flag would narrow is everything then.
func notEmpty(f *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		if flag := f.Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usagef("--%s is empty; give a value, or leave the flag away", name)
		}
	}
	return nil
}

func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, c := range commands {
		c.GroupID = title
		root.AddCommand(c)
	}
}

// plainHelp leaves away what pflag appends to the name of each switch: that
// it can be given as --name=false helps nobody who looks for it.
func plainHelp(help func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	const suffix = "[=true|false]"
	return func(cmd *cobra.Command, args []string) {
		var b strings.Builder
		out := cmd.OutOrStdout()
		cmd.SetOut(&b)
		help(cmd, args)
		cmd.SetOut(out)
		// A lost write is told when the output is flushed.
		_, _ = fmt.Fprint(out, strings.ReplaceAll(b.String(), suffix, strings.Repeat(" ", len(suffix))))
	}
}

func (a *App) addGlobalFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVarP(&a.config, "config", "c", "", "configuration `file`")
	addKeyFlag(f, "database", "database")
	f.VarP(choice[outputFormat]{&a.asked, outputFormats()}, "output", "o", "print results as `format`: "+joined(outputFormats()))
	f.Var(jsonFlag{&a.asked}, "json", "the same as -o json")
	f.Lookup("json").NoOptDefVal = "true"
	f.StringVar(&a.jqText, "jq", "", "print what this jq `expression` makes of the JSON")
	f.BoolVar(&a.noHeaders, "no-headers", false, "no line of headings")
	f.Var(choice[colorMode]{&a.color, colorModes()}, "color", "`when` to use colours: "+joined(colorModes()))
	f.Var(choice[timeMode]{&a.times, timeModes()}, "time", "`form` of times: relative (on a terminal), rfc3339 (elsewhere)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no notes on standard error, only errors")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log everything")
	f.BoolVar(&a.noInput, "no-input", false, "never ask")
	f.Var((*config.DurationValue)(&a.timeout), "timeout", "how long to wait for the database, or for an answer; serve and process ignore it")
}

// completeGlobalFlags completes the words that a flag takes.
func (a *App) completeGlobalFlags(cmd *cobra.Command) {
	must(cmd.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return texts(formatsOf(cmd)), cobra.ShellCompDirectiveNoFileComp
	}))
	must(cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions(texts(colorModes()), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("time", cobra.FixedCompletions(texts(timeModes()), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("jq", cobra.NoFileCompletions))
}

// must panics on what only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// newGroup is a command that only has subcommands: alone it prints its help,
// and a word that is none of them is a mistake.
func newGroup(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

func unknownCommand(cmd *cobra.Command, arg string) error {
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(arg); len(s) > 0 {
		return usagef("unknown command %q; did you mean: %s %s", arg, cmd.CommandPath(), s[0])
	}
	return usagef("unknown command %q; see: %s --help", arg, cmd.CommandPath())
}

// args checks the number of arguments; most < 0 is any number.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case most == 0 && len(args) > 0:
			return usagef("%s takes no arguments, got %q", cmd.Name(), args[0])
		case len(args) < least:
			return usagef("%s needs %s; see: %s --help", cmd.Name(), what, cmd.CommandPath())
		case most >= 0 && len(args) > most:
			return usagef("%s takes %s, got %q beside it", cmd.Name(), what, args[most])
		}
		return nil
	}
}

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Help about a command, or about a topic",
		Long:  "help prints the help of a command, as --help does, or of a topic.",
		Example: `  orchestrate help events list
  orchestrate help exit-codes
  orchestrate help environment
  orchestrate help filters
  orchestrate help templates`,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("no help for %q; see: orchestrate help", strings.Join(args, " "))
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			target, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range target.Commands() {
				names = append(names, c.Name()+"\t"+c.Short)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// count says how many there are of something.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
