package xdp

import (
	"os"
	"path/filepath"
	"testing"
)

// TestUnpin: a pin that is gone already is no error; one that cannot be removed is.
// Directories that become empty go, others stay.
func TestUnpin(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	pin := filepath.Join(dir, "a", "b", "pin")
	for _, d := range []string{kept, pin} { // a pin that is a directory, as any file will do
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Unpin(filepath.Join(dir, "gone")); err != nil {
		t.Error(err)
	}
	if err := Unpin(filepath.Dir(pin)); err == nil {
		t.Error("a directory that is not empty was removed")
	}
	if err := Unpin(pin); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("an empty directory stays: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}
