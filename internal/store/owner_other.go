//go:build !unix

package store

import "os"

const noFollow = 0

func oneFile(*os.File) error { return nil }

func likeOwner(*os.File, string) error { return nil }
