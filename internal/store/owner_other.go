//go:build !unix

package store

import "os"

const noFollow = 0

func oneFile(*os.File) error { return nil }

func likeOwner(*os.File, string) error { return nil }

// isOpenElsewhere does not know; SQLite tells, where it can read the database.
func isOpenElsewhere(string) (bool, error) { return false, nil }
