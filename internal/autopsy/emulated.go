package autopsy

import (
	"bytes"
	"io/fs"
	"strings"
)

// qemuNames are the names under which the emulators register themselves, as GOARCH.
var qemuNames = map[string]string{
	"qemu-aarch64": "arm64", "qemu-x86_64": "amd64", "qemu-arm": "arm", "qemu-i386": "386", "qemu-riscv64": "riscv64", "qemu-s390x": "s390x",
	"qemu-ppc64le": "ppc64le", "qemu-loongarch64": "loong64", "qemu-mips64el": "mips64le", "FEX-x86_64": "amd64", "box64": "amd64", "rosetta": "amd64",
}

// Emulated reads which other programs the kernel runs through emulators, from the directory /proc/sys/fs/binfmt_misc.
// other is true if it runs formats that we know nothing of.
func Emulated(binfmt fs.FS) (architectures []string, other bool) {
	entries, err := fs.ReadDir(binfmt, ".")
	if err != nil {
		return nil, false
	}
	for _, e := range entries {
		if e.Name() == "register" || e.Name() == "status" {
			continue
		}
		b, err := fs.ReadFile(binfmt, e.Name())
		if err != nil || !bytes.HasPrefix(b, []byte("enabled")) {
			continue
		}
		name := e.Name()
		if arch := qemuNames[name]; arch != "" {
			architectures = append(architectures, arch)
		} else if !strings.HasPrefix(name, "python") { // Debian registers compiled Python, which no ENTRYPOINT is
			other = true
		}
	}
	return architectures, other
}
