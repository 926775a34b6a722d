package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const root = "../.."

// citation is a requirement as the code names it.
type citation struct{ rfc, id string }

// tree is what the tables can refer to.
type tree struct {
	declared  map[string]bool       // file:name of Go declarations
	c         map[string]string     // the text of C files
	tests     map[string]bool       // package.Test
	citations map[string][]citation // by file
}

// readTree reads every Go and C file of the module, once.
func readTree(t *testing.T) *tree {
	t.Helper()
	tree, err := theTree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

var theTree = sync.OnceValues(func() (*tree, error) {
	x := &tree{map[string]bool{}, map[string]string{}, map[string]bool{}, map[string][]citation{}}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		switch {
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != root || d.Name() == "testdata" || name == "internal/docs"):
			return filepath.SkipDir
		case strings.HasSuffix(name, ".go"):
			return x.addGo(name)
		case strings.HasSuffix(name, ".c"), strings.HasSuffix(name, ".h"):
			return x.addC(name)
		}
		return nil
	})
	return x, err
})

func (x *tree) addGo(name string) error {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	test := strings.HasSuffix(name, "_test.go")
	for _, d := range file.Decls {
		for _, declared := range names(d) {
			x.declared[name+":"+declared] = true
			if test && strings.HasPrefix(declared, "Test") {
				x.tests[packageOf(name)+"."+declared] = true
			}
		}
	}
	for _, c := range file.Comments {
		x.cite(name, c.Text())
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			x.cite(name, text)
		}
		return true
	})
	return nil
}

// packageOf is how the tables write the package that a file is of: by the last
// word of its path, but for the one that would be taken for the whole.
func packageOf(file string) string {
	if dir := path.Dir(file); strings.HasPrefix(dir, "cmd/") {
		return dir
	}
	return path.Base(path.Dir(file))
}

// names are what a declaration declares, methods as Type.Method.
func names(d ast.Decl) (list []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			of := d.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if id, ok := of.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		list = append(list, name)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				list = append(list, s.Name.Name)
			case *ast.ValueSpec:
				for _, id := range s.Names {
					list = append(list, id.Name)
				}
			}
		}
	}
	return list
}

// comment is a run of C's line comments.
var comment = regexp.MustCompile(`(?m)(^[ \t]*//.*\n)+|//.*$`)

func (x *tree) addC(name string) error {
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return err
	}
	x.c[name] = string(text)
	for _, run := range comment.FindAllString(string(text), -1) {
		x.cite(name, strings.ReplaceAll(run, "//", ""))
	}
	return nil
}

// declares reports whether ref, file:name, is a declaration.
func (x *tree) declares(ref string) bool {
	file, name, _ := strings.Cut(ref, ":")
	if text, ok := x.c[file]; ok {
		return regexp.MustCompile(`(?m)^\w[\w *]*\b` + regexp.QuoteMeta(name) + `\(`).MatchString(text)
	}
	return x.declared[ref]
}

// cite notes what a comment or string cites. One that names no RFC is noted in
// the program's own text only: in tests it is the name of a row under one that
// does.
func (x *tree) cite(file, text string) {
	for _, c := range citationsIn(text) {
		if c.rfc != "" || !strings.HasSuffix(file, "_test.go") {
			x.citations[file] = append(x.citations[file], c)
		}
	}
}

// cited finds "RFC 4787", what may follow it, "REQ-3a" that belongs to the last
// RFC named, and the short form "4787-REQ-3a".
var cited = regexp.MustCompile(`RFC\s+(\d+)(?:(?:\s+section)?\s+(\d+(?:\.\d+)*)\b)?|\b(\d{3,4})-(REQ-\d+[a-zA-Z]?|\d+(?:\.\d+)*)|\b(REQ-\d+[a-zA-Z]?)`)

// ours are the RFCs whose requirements have numbers of ours.
var ours = []string{"791", "1858", "6056", "6274", "6864", "7126"}

func citationsIn(text string) (list []citation) {
	last := ""
	for _, m := range cited.FindAllStringSubmatch(text, -1) {
		rfc, section, short, id, bare := m[1], m[2], m[3], m[4], m[5]
		switch {
		case bare != "":
			list = append(list, citation{last, bare})
		case short != "" && slices.Contains(ours, short):
			list = append(list, citation{short, short + "-" + id})
		case short != "" && slices.Contains(citable, short):
			list = append(list, citation{short, id})
		case rfc != "":
			last = rfc
			if section != "" && slices.Contains(citable, rfc) {
				list = append(list, citation{rfc, section})
			}
		}
	}
	return list
}
