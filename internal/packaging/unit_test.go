package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sluice/internal/lab"
)

// TestUnit: systemd understands every line of the unit.
func TestUnit(t *testing.T) {
	analyze := lab.RequireProgram(t, "systemd-analyze", "systemd")
	text, err := os.ReadFile("sluice.service")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(unit string) string {
		// What is verified besides the syntax: that the programs exist.
		path := filepath.Join(t.TempDir(), "sluice.service")
		unit = strings.ReplaceAll(unit, "/usr/bin/sluice", "/bin/true")
		if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput()
		return string(out)
	}
	if out := verify(string(text)); strings.Contains(out, "sluice.service") {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	wrong := strings.Replace(string(text), "WatchdogSec", "WachtdogSec", 1)
	if out := verify(wrong); !strings.Contains(out, "WachtdogSec") {
		t.Errorf("a mistake is not noticed:\n%s", out)
	}
}
