// Package config is the configuration: one struct, validated as a whole, that
// nothing changes once it is loaded.
//
// Scalars come, in this order, from a flag, from a variable of the environment,
// from the file, or are the default; viper decides which. The file is read
// strictly by a reader of our own over the YAML nodes, since viper lower-cases
// the keys of maps, splits them at dots and takes unknown ones for granted. It
// reports every problem, not only the first, each with its line and value.
//
// Secrets stand in the file only as references, and are read when they are
// asked for, so that a command which needs none can run without access to them.
package config
