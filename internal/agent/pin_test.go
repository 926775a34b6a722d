package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRemovePin: a pin that is gone already is no error; one that cannot be removed is.
func TestRemovePin(t *testing.T) {
	dir := t.TempDir()
	if err := removePin(filepath.Join(dir, "gone")); err != nil {
		t.Error(err)
	}
	pin := filepath.Join(dir, "full", "pin")
	if err := os.MkdirAll(pin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := removePin(filepath.Dir(pin)); err == nil {
		t.Error("a directory that is not empty was removed")
	}
	if err := removePin(pin); err != nil {
		t.Error(err)
	}
}
