package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// converts are the functions in which a text becomes a statement, and why none
// of them has one from outside. Everywhere else the compiler refuses whatever is
// not a constant, a placeholder, or put together of those.
var converts = map[string]string{
	"join": "of statements", "fillIn": "of statements", "replace": "of statements", "fillSlots": "of statements",
	"columnsOf": "of a statement", "args.values": "of placeholders and casts", "digits": "of a number",
	"sessionOf": "settings that are named there, and durations",
}

// passes are the functions that hand a statement to a driver.
var passes = []string{
	"each", "exec", "simple", "allRows", // these take a statement
	"pgTx.ExecContext", "pgTx.QueryContext", "pgReads.ExecContext", "pgReads.QueryContext", "reads.QueryContext", // queriers of each and exec
	"writer.prepared", "writer.ExecContext", "writer.QueryContext",
}

// TestStatementsAreConstants finds what goes around the type: a conversion, and a
// driver that is called with a text of its own.
func TestStatementsAreConstants(t *testing.T) {
	files, fset := parseSources(t)
	constants := constantsOf(files)
	converting, passing := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			within := declared(d)
			ast.Inspect(d, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "statement" {
					converting[within] = true
					if converts[within] == "" {
						t.Errorf("%s: %s makes a statement of a text", fset.Position(n.Pos()), within)
					}
				}
				if query := queryOf(call); query != nil && !isConstant(query, constants) {
					passing[within] = true
					if !slices.Contains(passes, within) {
						t.Errorf("%s: %s hands a driver what is no constant; use each, all, one or exec", fset.Position(n.Pos()), within)
					}
				}
				return true
			})
		}
	}
	for _, name := range passes {
		if !passing[name] {
			t.Errorf("%s hands nothing to a driver", name)
		}
	}
	for name := range converts {
		if !converting[name] {
			t.Errorf("%s makes no statement of a text", name)
		}
	}
}

// constantsOf are the names of the package's constants.
func constantsOf(files []*ast.File) map[string]bool {
	constants := map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			ast.Inspect(g, func(n ast.Node) bool {
				if s, ok := n.(*ast.ValueSpec); ok {
					for _, name := range s.Names {
						constants[name.Name] = true
					}
				}
				return true
			})
		}
	}
	return constants
}

func parseSources(t *testing.T) ([]*ast.File, *token.FileSet) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d sources: %v", len(names), err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files, fset
}

// declared is that of a function, or of a method after that of its type.
func declared(d ast.Decl) string {
	f, ok := d.(*ast.FuncDecl)
	switch {
	case !ok:
		return "a declaration"
	case f.Recv == nil:
		return f.Name.Name
	}
	of := f.Recv.List[0].Type
	if p, ok := of.(*ast.StarExpr); ok {
		of = p.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name + "." + f.Name.Name
	}
	return f.Name.Name
}

// queryOf is the SQL of a call to a driver; nil for any other. A method of a
// statement that was prepared has none: it takes the values only.
func queryOf(call *ast.CallExpr) ast.Expr {
	method, ok := call.Fun.(*ast.SelectorExpr)
	names := []string{
		"ExecContext", "QueryContext", "QueryRowContext", "PrepareContext", "Exec", "Query", "QueryRow", "Prepare",
		"SendBatch", "Queue", "ExecParams", "ExecPrepared", "CopyFrom", "CopyTo",
	}
	if !ok || len(call.Args) < 2 || !slices.Contains(names, method.Sel.Name) {
		return nil
	}
	return call.Args[1]
}

func isConstant(e ast.Expr, constants map[string]bool) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return constants[e.Name]
	case *ast.BinaryExpr:
		return isConstant(e.X, constants) && isConstant(e.Y, constants)
	}
	return false
}
