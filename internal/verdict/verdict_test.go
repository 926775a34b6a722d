package verdict

import (
	"regexp"
	"testing"
)

func TestEveryReasonHasOneStableWordAndAnExplanation(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]Reason{}
	for r := range Count {
		name := r.String()
		if !kebab.MatchString(name) {
			t.Errorf("reason %d: %q is not a kebab-case word", r, name)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("reasons %d and %d are both called %q", other, r, name)
		}
		seen[name] = r
		if r.Explain() == "" {
			t.Errorf("%s: no explanation", name)
		}
		if back, ok := Parse(name); !ok || back != r {
			t.Errorf("Parse(%q) = %d, %v; want %d", name, back, ok, r)
		}
	}
	if _, ok := Parse("no-such-word"); ok {
		t.Error("Parse accepts a word that is no reason")
	}
	if got := len(All()); got != int(Count)-1 {
		t.Errorf("All lists %d reasons, want %d", got, Count-1)
	}
}
