package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirement is a row of docs/rfc.md.
type requirement struct {
	rfcs        []string // of the heading, without "RFC"
	ids         []string // REQ-3a, 5.2.4, 791-1
	asks        string
	status      string
	code, tests []string // file:name, package.Test
	line        int
}

// the columns of the tables
const (
	columnIDs = iota
	columnAsks
	columnStatus
	columnHow
	columnCode
	columnTests
	columns
)

var (
	headingNumber = regexp.MustCompile(`\d{3,}`)
	codeSpan      = regexp.MustCompile("`([^`]+)`")
	numbered      = regexp.MustCompile(`^(REQ-\d+[a-zA-Z]?|\d+(\.\d+)*|\d{3,}-\d+)$`)
)

// requirements reads docs/rfc.md.
func requirements(t *testing.T) []requirement {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/rfc.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []requirement
	var rfcs []string
	for i, line := range strings.Split(string(text), "\n") {
		if heading, ok := strings.CutPrefix(line, "## RFC "); ok {
			heading, _, _ = strings.Cut(heading, ":")
			rfcs = headingNumber.FindAllString(heading, -1)
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.Trim(cells[0], "- ") == "" {
			continue
		}
		if len(cells) != columns {
			t.Fatalf("docs/rfc.md:%d: %d columns, want %d", i+1, len(cells), columns)
		}
		for c := range cells {
			cells[c] = strings.TrimSpace(cells[c])
		}
		r := requirement{rfcs: rfcs, ids: strings.Split(cells[columnIDs], ", "), asks: cells[columnAsks], status: cells[columnStatus], line: i + 1}
		for _, m := range codeSpan.FindAllStringSubmatch(cells[columnCode], -1) {
			r.code = append(r.code, m[1])
		}
		for _, m := range codeSpan.FindAllStringSubmatch(cells[columnTests], -1) {
			r.tests = append(r.tests, m[1])
		}
		all = append(all, r)
	}
	if len(all) < 100 {
		t.Fatalf("docs/rfc.md: only %d requirements could be read", len(all))
	}
	return all
}

// TestRequirementsAreWellFormed: every row has an id of its own, a status, and
// what the status calls for.
func TestRequirementsAreWellFormed(t *testing.T) {
	seen := map[string]int{}
	for _, r := range requirements(t) {
		for _, id := range r.ids {
			if !numbered.MatchString(id) {
				t.Errorf("docs/rfc.md:%d: %q is not the number of a requirement", r.line, id)
			}
			key := strings.Join(r.rfcs, " ") + " " + id
			if first := seen[key]; first != 0 {
				t.Errorf("docs/rfc.md:%d: RFC %s is on line %d already", r.line, key, first)
			}
			seen[key] = r.line
		}
		switch r.status {
		case "met", "part":
			if len(r.code) == 0 || len(r.tests) == 0 {
				t.Errorf("docs/rfc.md:%d: %v is said to be %s, without code and a test", r.line, r.ids, r.status)
			}
		case "not yet", "n/a":
		default:
			t.Errorf("docs/rfc.md:%d: %q is no status", r.line, r.status)
		}
		if r.asks == "" {
			t.Errorf("docs/rfc.md:%d: it does not say what %v asks", r.line, r.ids)
		}
	}
}

// TestRequirementsAreComplete: RFCs that number their requirements have all of
// them here.
func TestRequirementsAreComplete(t *testing.T) {
	have := map[citation]bool{}
	for _, r := range requirements(t) {
		for _, id := range r.ids {
			have[citation{r.rfcs[0], strings.TrimRight(id, letters)}] = true
		}
	}
	for rfc, last := range map[string]int{"4787": 14, "5382": 10, "5508": 11, "6888": 15} {
		for n := 1; n <= last; n++ {
			if id := fmt.Sprintf("REQ-%d", n); !have[citation{rfc, id}] {
				t.Errorf("docs/rfc.md does not have RFC %s %s", rfc, id)
			}
		}
	}
}

// TestRequirementsNameWhatExists: the files, functions and tests of the tables.
func TestRequirementsNameWhatExists(t *testing.T) {
	tree := readTree(t)
	for _, r := range requirements(t) {
		for _, ref := range r.code {
			if !tree.declares(ref) {
				t.Errorf("docs/rfc.md:%d: there is no %s", r.line, ref)
			}
		}
		for _, ref := range r.tests {
			if !tree.tests[ref] {
				t.Errorf("docs/rfc.md:%d: there is no test %s", r.line, ref)
			}
		}
	}
}

// letters tell the parts of a requirement.
const letters = "abcdefABCDEF"

// inGo tells the code that can cite from the steering program, where a comment
// changes the hash that its committed object is held to.
func inGo(ref string) bool { return strings.Contains(ref, ".go:") }

// citable are the RFCs whose numbers of requirements the code cites. Of the
// others only sections would be cited, which the tables do not follow.
var citable = []string{"4787", "5382", "5508", "6888", "7857", "5961", "1812"}

// TestRequirementsAreCited: what is met, and the part that is met of others, is
// cited by number in one of the files that do it.
func TestRequirementsAreCited(t *testing.T) {
	tree := readTree(t)
	for _, r := range requirements(t) {
		if r.status != "met" && r.status != "part" || !slices.Contains(citable, r.rfcs[0]) || !slices.ContainsFunc(r.code, inGo) {
			continue
		}
		cited := slices.ContainsFunc(r.code, func(ref string) bool {
			file, _, _ := strings.Cut(ref, ":")
			return slices.ContainsFunc(tree.citations[file], func(c citation) bool {
				return c.rfc == r.rfcs[0] && slices.Contains(r.ids, c.id)
			})
		})
		if !cited {
			t.Errorf("docs/rfc.md:%d: none of %v cites RFC %s %s", r.line, r.code, r.rfcs[0], strings.Join(r.ids, ", "))
		}
	}
}

// TestCitationsStandInTheTables: every requirement that the code or a test names
// has a row.
func TestCitationsStandInTheTables(t *testing.T) {
	known := map[citation]bool{}
	for _, r := range requirements(t) {
		for _, rfc := range r.rfcs {
			for _, id := range r.ids {
				known[citation{rfc, id}] = true
				known[citation{rfc, strings.TrimRight(id, letters)}] = true
				// A chapter may be cited as a whole.
				for cut := strings.LastIndexByte(id, '.'); cut > 0; cut = strings.LastIndexByte(id[:cut], '.') {
					known[citation{rfc, id[:cut]}] = true
				}
			}
		}
	}
	n := 0
	for file, citations := range readTree(t).citations {
		for _, c := range citations {
			n++
			// REQ-8a is a part of REQ-8, and may have no row of its own.
			if !known[c] && !known[citation{c.rfc, strings.TrimRight(c.id, letters)}] {
				t.Errorf("%s cites RFC %s %s, which docs/rfc.md does not have", file, c.rfc, c.id)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d citations found", n)
	}
}

func TestCitations(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []citation
	}{
		{"not under 2 h 4 min: RFC 5382 REQ-5", []citation{{"5382", "REQ-5"}}},
		{"(RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6)", []citation{{"4787", "REQ-12"}, {"5382", "REQ-10"}, {"5508", "REQ-6"}}},
		{"RFC 5508 REQ-4a, REQ-5a", []citation{{"5508", "REQ-4a"}, {"5508", "REQ-5a"}}},
		{"RFC 1812 4.3.2.7, RFC 1122 3.2.2", []citation{{"1812", "4.3.2.7"}}},
		{"RFC 7857 section 8", []citation{{"7857", "8"}}},
		{"(RFC 5961 4)", []citation{{"5961", "4"}}},
		{"RFC 1812 5.3.7,\nRFC 6890", []citation{{"1812", "5.3.7"}}},
		{"1812-5.3.1: TTL 1", []citation{{"1812", "5.3.1"}}},
		{"1191, 4787-REQ-13: DF", []citation{{"4787", "REQ-13"}}},
		{"6274-4: ours", []citation{{"6274", "6274-4"}}},
		{"RFC 4787, 5382 and 5508 (what a NAT does)", nil},
		{"RFC 768, RFC 9293 3.1, 1024-65535, 1812 bytes", nil},
		{"RFC 4884 extensions (RFC 5508 REQ-3d)", []citation{{"5508", "REQ-3d"}}},
		{"REQ-3: of no RFC", []citation{{"", "REQ-3"}}},
	} {
		if got := citationsIn(tt.text); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.text, got, tt.want)
		}
	}
}
