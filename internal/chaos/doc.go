// Package chaos is what the fault tests share: a sender with a ledger of its own,
// the built program started as an operator starts it, a handler that writes down
// what it is given, and a check of the database against both. The product does
// not import it, and it imports nothing that it checks but the signature and the
// clock: it reads the database by SQL of its own.
package chaos
