package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// packages is the folder that `make package` filled, and the version in it. It
// takes minutes and a network to get that far, so this is no part of `make test`.
func packages(t *testing.T) (dir, version string) {
	t.Helper()
	dir = os.Getenv("SLUICE_PACKAGES")
	if dir == "" {
		t.Skip("make test-package and make test-systemd set SLUICE_PACKAGES")
	}
	debs, err := filepath.Glob(filepath.Join(dir, "sluice-*-linux-"+runtime.GOARCH+".deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("%s has %d packages for this machine: %v", dir, len(debs), err)
	}
	version = strings.TrimPrefix(filepath.Base(debs[0]), "sluice-")
	return dir, strings.TrimSuffix(version, "-linux-"+runtime.GOARCH+".deb")
}

// run runs a command at the top of the tree.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestPackageTwice: the same commit makes the same packages, byte for byte.
func TestPackageTwice(t *testing.T) {
	dir, version := packages(t)
	again := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		run(t, "internal/packaging/build.sh", arch, version, again)
		for _, suffix := range []string{".deb", ".rpm", ".tar.gz"} {
			name := "sluice-" + version + "-linux-" + arch + suffix
			a, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(again, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s differs from one build to the next", name)
			}
		}
	}
}

// cleanRoot makes a Debian root with nothing but systemd in it.
func cleanRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	run(t, "debootstrap", "--variant=minbase", "--include=systemd,dbus,iproute2,procps", "bookworm", root)
	return root
}

// TestPackageInstall: the deb installs into a clean root, starts nothing, keeps
// the operator's configuration when it is removed, and leaves nothing when purged.
func TestPackageInstall(t *testing.T) {
	dir, version := packages(t)
	root := cleanRoot(t)
	run(t, "cp", filepath.Join(dir, "sluice-"+version+"-linux-"+runtime.GOARCH+".deb"), filepath.Join(root, "root/sluice.deb"))
	before := run(t, "find", root+"/etc", root+"/usr", root+"/lib/systemd", "-newermt", "2000-01-01", "-name", "*sluice*")
	apt := func(script string) { run(t, "chroot", root, "bash", "-c", script) }
	apt("apt install -y --no-install-recommends /root/sluice.deb")
	if out := run(t, "chroot", root, "sluice", "check"); !strings.Contains(out, "/etc/sluice/sluice.yaml: ok") {
		t.Errorf("the configuration that is installed: %s", out)
	}
	if out := run(t, "chroot", root, "sluice", "version"); !strings.Contains(out, version) {
		t.Errorf("version %s: %s", version, out)
	}
	for _, path := range []string{"usr/share/man/man8/sluice.8.gz", "usr/share/man/man8/sluice-explain.8.gz",
		"usr/share/bash-completion/completions/sluice", "usr/share/doc/sluice/copyright", "usr/share/doc/sluice/operations.md", "usr/share/doc/sluice/README.md",
		"usr/share/doc/sluice/dashboards/grafana.json", "usr/share/doc/sluice/dashboards/alerts.yaml"} {
		if st, err := os.Stat(filepath.Join(root, path)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", path, err)
		}
	}
	config := filepath.Join(root, "etc/sluice/sluice.yaml")
	if err := os.WriteFile(config, []byte("# mine\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	apt("apt remove -y sluice")
	if text, err := os.ReadFile(config); err != nil || string(text) != "# mine\n" {
		t.Errorf("the operator's configuration: %q, %v", text, err)
	}
	apt("apt purge -y sluice")
	after := run(t, "find", root+"/etc", root+"/usr", root+"/lib/systemd", "-newermt", "2000-01-01", "-name", "*sluice*")
	if after != before {
		t.Errorf("left behind:\n%s", after)
	}
}

// TestPackageTarball: what is in the tarball runs from where it is unpacked.
func TestPackageTarball(t *testing.T) {
	dir, version := packages(t)
	to, name := t.TempDir(), "sluice-"+version+"-linux-"+runtime.GOARCH
	run(t, "tar", "xzf", filepath.Join(dir, name+".tar.gz"), "-C", to)
	if out := run(t, filepath.Join(to, name, "bin/sluice"), "version"); !strings.Contains(out, version) {
		t.Errorf("version %s: %s", version, out)
	}
	run(t, filepath.Join(to, name, "bin/sluice"), "check", "--config", filepath.Join(to, name, "etc/sluice/sluice.yaml"))
}
