package autopsy_test

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
)

// program makes the beginning of an ELF file.
func program(machine elf.Machine, loader string) []byte {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], uint16(machine))
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], uint32(elf.PT_LOAD))
	if loader != "" {
		le.PutUint32(b[64:], uint32(elf.PT_INTERP))
		le.PutUint64(b[64+8:], uint64(len(b)))
		le.PutUint64(b[64+32:], uint64(len(loader)+1))
		return slices.Concat(b, []byte(loader), []byte{0})
	}
	return b
}

func file(mode fs.FileMode, content string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(content), Mode: mode}
}

func bin(machine elf.Machine, loader string) *fstest.MapFile {
	return &fstest.MapFile{Data: program(machine, loader), Mode: 0o755}
}

func link(to string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(to), Mode: 0o777 | fs.ModeSymlink}
}

func owned(f *fstest.MapFile, uid uint32) *fstest.MapFile {
	f.Sys = &syscall.Stat_t{Uid: uid, Gid: uid}
	return f
}

const (
	musl  = "/lib/ld-musl-x86_64.so.1"
	glibc = "/lib64/ld-linux-x86-64.so.2"
)

// image is a small image with everything that the tests run.
func image() fstest.MapFS {
	return fstest.MapFS{
		"app/server":                          bin(elf.EM_X86_64, ""),
		"app/foreign":                         bin(elf.EM_AARCH64, ""),
		"app/old":                             bin(elf.EM_386, ""),
		"app/alpine":                          bin(elf.EM_X86_64, musl),
		"app/debian":                          bin(elf.EM_X86_64, glibc),
		"app/plain":                           file(0o644, "\x7fELF"),
		"app/start.sh":                        file(0o755, "#!/bin/sh\nexec /app/server\n"),
		"app/stay.sh":                         file(0o755, "#!/bin/sh\nset -e\n/app/server\n"),
		"app/windows.sh":                      file(0o755, "#!/bin/sh\r\nexec /app/server\r\n"),
		"app/windowsenv":                      file(0o755, "#!/usr/bin/env node\r\n"),
		"app/windowsflag":                     file(0o755, "#!/bin/sh -e\r\n"),
		"app/none.sh":                         file(0o755, "echo hello\n"),
		"app/bom.sh":                          file(0o755, "\xef\xbb\xbf#!/bin/sh\n"),
		"app/bash.sh":                         file(0o755, "#!/bin/bash\n"),
		"app/node.js":                         file(0o755, "#!/usr/bin/env node\n"),
		"app/split.js":                        file(0o755, "#!/usr/bin/env -S node --enable-source-maps\n"),
		"app/envsh":                           file(0o755, "#!/usr/bin/env sh\nexec x\n"),
		"app/foreigner":                       file(0o755, "#!/app/foreign\n"),
		"app/blank":                           file(0o755, "#! \n"),
		"app/empty":                           file(0o755, ""),
		"app/setup.exe":                       file(0o755, "MZ\x90\x00"),
		"app/app.jar":                         file(0o755, "PK\x03\x04..."),
		"app/noise":                           file(0o755, "\x00\x01\x02\x03"),
		"app/cut":                             file(0o755, "\x7fELF\x02\x01"),
		"app/pipe":                            {Mode: fs.ModeNamedPipe | 0o755},
		"app/deep/tool":                       bin(elf.EM_X86_64, ""),
		"bin/sh":                              link("busybox"),
		"bin/busybox":                         bin(elf.EM_X86_64, ""),
		"usr/bin/env":                         link("../../bin/busybox"),
		"usr/local/bin/serve":                 bin(elf.EM_X86_64, ""),
		"usr/local/bin/dull":                  file(0o644, "x"),
		"sbin/init":                           link("/lib/systemd/systemd"),
		"lib/systemd/systemd":                 bin(elf.EM_X86_64, glibc),
		"lib64":                               link("usr/lib64"),
		"usr/lib64/x":                         file(0o644, ""),
		"usr/lib64/" + "ld-linux-x86-64.so.2": bin(elf.EM_X86_64, ""),
		"etc/passwd":                          file(0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/app:/bin/sh\n"),
		"etc/group":                           file(0o644, "root:x:0:\napp:x:1001:\n"),
		"root":                                {Mode: fs.ModeDir | 0o700},
		"root/tool":                           bin(elf.EM_X86_64, ""),
		"opt/mine":                            owned(&fstest.MapFile{Data: program(elf.EM_X86_64, ""), Mode: 0o700}, 1000),
		"opt/theirs":                          owned(&fstest.MapFile{Data: program(elf.EM_X86_64, ""), Mode: 0o700}, 7),
		"loop/a":                              link("b"),
		"loop/b":                              link("a"),
		"escape":                              link("../../../../etc/passwd"),
	}
}

var amd64 = autopsy.Machine{Architecture: "amd64", FirstUserPort: 1024}

func TestExamine_SaysWhatWillFail(t *testing.T) {
	run := func(words ...string) autopsy.Container { return autopsy.Container{Entrypoint: words} }
	for _, tc := range []struct {
		name string
		c    autopsy.Container
		code trysail.DiagnosisCode // "": nothing is wrong
		how  trysail.Confidence
		says string // in summary, fix or evidence
	}{
		{"static program", run("/app/server"), "", "", ""},
		{"found in PATH", run("serve"), "", "", ""},
		{"own PATH", autopsy.Container{Entrypoint: []string{"tool"}, Path: "/nowhere:/app/deep"}, "", "", ""},
		{"relative to the working directory", autopsy.Container{Entrypoint: []string{"./server"}, WorkingDir: "/app"}, "", "", ""},
		{"entrypoint and command are one", autopsy.Container{Entrypoint: []string{"/bin/sh"}, Command: []string{"-c", "x"}}, "", "", ""},
		{"loader there, through a link", run("/app/debian"), "", "", ""},
		{"32 bit", run("/app/old"), "", "", ""},
		{"script", run("/app/start.sh"), "", "", ""},
		{"script with env", run("/app/envsh"), "", "", ""},
		{"the kernel's", run("/proc/self/exe"), "", "", ""},
		{"named user", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "app:app"}, "", "", ""},
		{"numeric user", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "4711:4711"}, "", "", ""},
		{"own file", autopsy.Container{Entrypoint: []string{"/opt/mine"}, User: "app"}, "", "", ""},
		{"working directory that does not exist", autopsy.Container{Entrypoint: []string{"/app/server"}, WorkingDir: "/new"}, "", "", ""},
		{"high port", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "app", Ports: []int{8080}}, "", "", ""},

		{"no command", autopsy.Container{}, "RUN-NOCMD", trysail.Certain, "command"},
		{"empty word", run(""), "RUN-NOFILE", trysail.Certain, "empty"},
		{"absent", run("/app/sever"), "RUN-NOFILE", trysail.Certain, "Did you mean `/app/server`"},
		{"absent in PATH", run("sevre"), "RUN-NOFILE", trysail.Certain, "`sevre` is not in the image"},
		{"file as directory", run("/app/server/x"), "RUN-NOFILE", trysail.Certain, "/app/server/x"},
		{"loop of links", run("/loop/a"), "", "", ""},
		{"one word", run("node server.js"), "RUN-ONEWORD", trysail.Certain, `["node", "server.js"]`},
		{"directory", run("/app"), "RUN-NOFILE", trysail.Certain, "is a directory"},
		{"pipe", run("/app/pipe"), "RUN-PERM", trysail.Certain, "named pipe"},
		{"not executable", run("/app/plain"), "RUN-PERM", trysail.Certain, "chmod +x /app/plain"},
		{"not executable in PATH", run("dull"), "RUN-PERM", trysail.Certain, "/usr/local/bin/dull"},
		{"another processor", run("/app/foreign"), "IMG-BIN-ARCH", trysail.Certain, "a program for arm64; this machine is amd64"},
		{"interpreter for another processor", run("/app/foreigner"), "IMG-BIN-ARCH", trysail.Certain, "/app/foreign"},
		{"Windows program", run("/app/setup.exe"), "IMG-BIN-ARCH", trysail.Certain, "Windows"},
		{"archive", run("/app/app.jar"), "IMG-BIN-ARCH", trysail.Certain, "archive"},
		{"noise", run("/app/noise"), "IMG-BIN-ARCH", trysail.Likely, "00 01 02 03"},
		{"cut off", run("/app/cut"), "IMG-BIN-ARCH", trysail.Likely, "damaged"},
		{"no loader", run("/app/alpine"), "RUN-LOADER", trysail.Certain, musl},
		{"no bash", run("/app/bash.sh"), "RUN-LOADER", trysail.Certain, "#!/bin/sh"},
		{"env finds nothing", run("/app/node.js"), "RUN-LOADER", trysail.Certain, "`node`"},
		{"env -S finds nothing", run("/app/split.js"), "RUN-LOADER", trysail.Certain, "`node`"},
		{"Windows line ends", run("/app/windows.sh"), "RUN-CRLF", trysail.Certain, `sed -i 's/\r$//' /app/windows.sh`},
		{"Windows line ends after env", run("/app/windowsenv"), "RUN-CRLF", trysail.Certain, `node\r`},
		{"Windows line ends after a flag", run("/app/windowsflag"), "RUN-CRLF", trysail.Likely, `-e\r`},
		{"no #!", run("/app/none.sh"), "RUN-NOSHEBANG", trysail.Certain, "#!/bin/sh"},
		{"byte order mark", run("/app/bom.sh"), "RUN-NOSHEBANG", trysail.Certain, "BOM"},
		{"empty #!", run("/app/blank"), "RUN-NOSHEBANG", trysail.Certain, "names no program"},
		{"empty file", run("/app/empty"), "RUN-NOSHEBANG", trysail.Certain, "empty file"},
		{"systemd", run("/sbin/init"), "RUN-SYSTEMD", trysail.Likely, "whole machine"},
		{"unknown user", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "node"}, "RUN-USER", trysail.Certain, "`node`"},
		{"unknown group", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "app:staff"}, "RUN-USER", trysail.Certain, "`staff`"},
		{"file of another", autopsy.Container{Entrypoint: []string{"/opt/theirs"}, User: "app"}, "RUN-PERM", trysail.Likely, "may not execute"},
		{"directory of another", autopsy.Container{Entrypoint: []string{"/root/tool"}, User: "app"}, "RUN-PERM", trysail.Likely, "may not enter `/root`"},
		{"low port", autopsy.Container{Entrypoint: []string{"/app/server"}, User: "app", Ports: []int{80}}, "NET-LOWPORT", trysail.Likely, "port 80"},
		{"working directory is a file", autopsy.Container{Entrypoint: []string{"/app/server"}, WorkingDir: "/app/server"}, "RUN-WORKDIR", trysail.Certain, "/app/server"},
		{"working directory below a file", autopsy.Container{Entrypoint: []string{"/app/server"}, WorkingDir: "/app/server/x"}, "RUN-WORKDIR", trysail.Certain, "/app/server"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := autopsy.Examine(image(), tc.c, amd64)
			if tc.code == "" {
				if len(a.Findings) > 0 {
					t.Fatalf("found %+v in a good image", a.Findings)
				}
				return
			}
			if len(a.Findings) == 0 {
				t.Fatalf("found nothing; incomplete: %q", a.Incomplete)
			}
			f := a.Findings[0]
			if f.Code != tc.code || f.Confidence != tc.how {
				t.Errorf("found %s (%s), want %s (%s)", f.Code, f.Confidence, tc.code, tc.how)
			}
			if all := fmt.Sprint(f); !strings.Contains(all, tc.says) || f.Summary == "" || f.Fix == "" {
				t.Errorf("%+v\ndoes not say %q", f, tc.says)
			}
		})
	}
}

func TestExamine_EmulatorsRunForeignPrograms(t *testing.T) {
	c := autopsy.Container{Entrypoint: []string{"/app/foreign"}}
	if a := autopsy.Examine(image(), c, autopsy.Machine{Architecture: "amd64", Emulated: []string{"arm64"}}); len(a.Findings) > 0 {
		t.Errorf("found %+v though it is emulated", a.Findings)
	}
	if a := autopsy.Examine(image(), c, autopsy.Machine{Architecture: "amd64", OtherFormats: true}); len(a.Findings) != 1 || a.Findings[0].Confidence != trysail.Likely {
		t.Errorf("found %+v, want one that is likely", a.Findings)
	}
}

func TestExamine_DescribesTheProgram(t *testing.T) {
	a := autopsy.Examine(image(), autopsy.Container{
		Entrypoint: []string{"debian"}, Path: "/app", User: "app", WorkingDir: "/app", Exposed: []string{"3000/tcp"},
	}, amd64)
	if a.Program != "/app/debian" || a.Kind != "elf" || a.Architecture != "amd64" || a.Interpreter != glibc || a.User != "app" || a.Exposed[0] != "3000/tcp" || a.Incomplete != "" {
		t.Errorf("%+v", a)
	}
	for want, words := range map[bool][][]string{
		true:  {{"/app/stay.sh"}, {"sh", "-c", "migrate && serve"}},
		false: {{"/app/start.sh"}, {"sh", "-c", "serve"}, {"sh", "-c", "migrate && exec serve"}, {"/app/server"}},
	} {
		for _, w := range words {
			if a := autopsy.Examine(image(), autopsy.Container{Entrypoint: w}, amd64); a.Shell != want {
				t.Errorf("%q: shell in between: %v, want %v", w, a.Shell, want)
			}
		}
	}
}

func TestExamine_IsNotCertainOfWhatItCannotSee(t *testing.T) {
	root := image()
	var deep []string
	for range 300 {
		deep = append(deep, "d")
	}
	root["maze"] = link(strings.Join(deep, "/"))
	a := autopsy.Examine(root, autopsy.Container{Entrypoint: []string{"missing"}, Path: "/loop/a"}, amd64)
	if len(a.Findings) > 0 || a.Incomplete == "" {
		t.Errorf("%+v, incomplete %q", a.Findings, a.Incomplete)
	}
}

func TestEmulated(t *testing.T) {
	archs, other := autopsy.Emulated(fstest.MapFS{
		"register": {}, "status": {Data: []byte("enabled\n")},
		"qemu-aarch64": {Data: []byte("enabled\ninterpreter /usr/bin/qemu-aarch64\n")},
		"qemu-arm":     {Data: []byte("disabled\n")},
		"python3.11":   {Data: []byte("enabled\n")},
	})
	if len(archs) != 1 || archs[0] != "arm64" || other {
		t.Errorf("%v, %v", archs, other)
	}
	if _, other = autopsy.Emulated(fstest.MapFS{"wine": {Data: []byte("enabled\n")}}); !other {
		t.Error("another format was not seen")
	}
}

func FuzzExamine(f *testing.F) {
	f.Add(program(elf.EM_X86_64, glibc), "/app/x", "app", "busybox", "root:x:0:0:\n")
	f.Add([]byte("#!/usr/bin/env -S node\r\n"), "x y", "0:0", "/app/x", "")
	f.Add([]byte("#!/app/x"), "", "::", "..", ":::")
	f.Fuzz(func(t *testing.T, content []byte, word, user, target, passwd string) {
		root := fstest.MapFS{
			"app/x": {Data: content, Mode: 0o755}, "app/link": link(target), "usr/bin/env": bin(elf.EM_X86_64, ""),
			"etc/passwd": file(0o644, passwd),
		}
		for _, words := range [][]string{{"/app/x"}, {"/app/link"}, {word}} {
			a := autopsy.Examine(root, autopsy.Container{Entrypoint: words, User: user, Path: target, WorkingDir: target}, amd64)
			for _, x := range a.Findings {
				if x.Code == "" || x.Summary == "" || x.Fix == "" || len(x.Summary) > 1000 || len(x.Fix) > 1500 || strings.ContainsAny(x.Summary+x.Fix, "\x00\n\x1b") {
					t.Errorf("%+v", x)
				}
			}
		}
	})
}
