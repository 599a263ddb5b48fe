package corpus

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/trysail/trysail/test/kit"
)

// images are all that cases name, by name without registry. Each is made when it is first asked for.
func images() map[string]func(context.Context) (remote.Taggable, error) {
	all := map[string]func(context.Context) (remote.Taggable, error){
		"misbehave:1":    misbehave(func(*v1.Config, map[string]kit.File) {}),
		"unprivileged:1": misbehave(func(c *v1.Config, _ map[string]kit.File) { c.User = "app" }),
		"number:1":       misbehave(func(c *v1.Config, _ map[string]kit.File) { c.User = "12345:12345" }),
		"exposed:1":      misbehave(func(c *v1.Config, _ map[string]kit.File) { c.ExposedPorts = map[string]struct{}{"3000/tcp": {}} }),
		"scratch:1": misbehave(func(_ *v1.Config, files map[string]kit.File) {
			maps.DeleteFunc(files, func(name string, _ kit.File) bool { return name != "/misbehave" })
		}),
		"readonly:1": misbehave(func(c *v1.Config, files map[string]kit.File) {
			c.User = "app"
			files["/data/"] = kit.File{Mode: 0o555}
		}),
		"bigenv:1": misbehave(func(c *v1.Config, _ map[string]kit.File) {
			for i := range 500 {
				c.Env = append(c.Env, fmt.Sprintf("SETTING_%d=%s", i, strings.Repeat("x", 100)))
			}
		}),
		"nouser:1":     misbehave(func(c *v1.Config, _ map[string]kit.File) { c.User = "nodejs" }),
		"nogroup:1":    misbehave(func(c *v1.Config, _ map[string]kit.File) { c.User = "app:nodejs" }),
		"noworkdir:1":  misbehave(func(c *v1.Config, _ map[string]kit.File) { c.WorkingDir = "/etc/passwd" }),
		"nocommand:1":  misbehave(func(c *v1.Config, _ map[string]kit.File) { c.Entrypoint, c.Cmd = nil, nil }),
		"entrypoint:1": misbehave(func(c *v1.Config, _ map[string]kit.File) { c.Entrypoint = nil }),
		"noprogram:1":  misbehave(func(c *v1.Config, _ map[string]kit.File) { c.Entrypoint = []string{"/misbehaev"} }),
		"noexec:1": misbehave(func(c *v1.Config, files map[string]kit.File) {
			c.Entrypoint = []string{"/app/server"}
			files["/app/server"] = kit.File{Mode: 0o644, Data: files["/misbehave"].Data}
		}),
		"directory:1": misbehave(func(c *v1.Config, files map[string]kit.File) {
			c.Entrypoint = []string{"/srv"}
			files["/srv/"] = kit.File{Mode: 0o755}
		}),
		"systemd:1": misbehave(func(c *v1.Config, files map[string]kit.File) {
			// It says what the real one does where it may not mount anything.
			c.Entrypoint = []string{"/sbin/init"}
			c.Cmd = []string{"cry Failed to mount tmpfs at /run: Operation not permitted", "cry [!!!!!!] Failed to mount API filesystems.", "cry Exiting PID 1...", "exit 255"}
			files["/lib/systemd/systemd"] = files["/misbehave"]
			files["/sbin/init"] = kit.File{Link: "/lib/systemd/systemd"}
		}),
		"arm:1":       foreignManifest,
		"armindex:1":  foreignIndex,
		"armbinary:1": misbehave(func(*v1.Config, map[string]kit.File) {}, foreignProgram),
		"dynamic:1":   dynamic,
		"segv:1":      machineCode(map[string][]byte{"amd64": {0x31, 0xc0, 0x88, 0x00}, "arm64": {0x00, 0x00, 0x80, 0xd2, 0x00, 0x00, 0x00, 0xb9}}),
		"sigill:1":    machineCode(map[string][]byte{"amd64": {0x0f, 0x0b}, "arm64": {0, 0, 0, 0}}),
		// Their layers are nobody else's, so each of them has to be pulled.
		"one:1":            misbehave(func(_ *v1.Config, files map[string]kit.File) { files["/one"] = kit.File{Mode: 0o644} }),
		"two:1":            misbehave(func(_ *v1.Config, files map[string]kit.File) { files["/two"] = kit.File{Mode: 0o644} }),
		"three:1":          misbehave(func(_ *v1.Config, files map[string]kit.File) { files["/three"] = kit.File{Mode: 0o644} }),
		"fat:1":            fat,
		"busybox:1":        busybox(nil, nil),
		"crlf:1":           script("#!/bin/sh\r\nexec misbehave\r\n", 0o755),
		"noshebang:1":      script("echo starting\nexec misbehave\n", 0o755),
		"text:1":           script("This is the read-me file of the program.\n", 0o755),
		"nointerpreter:1":  script("#!/usr/bin/python3\nimport http.server\n", 0o755),
		"envinterpreter:1": script("#!/usr/bin/env node\nrequire('http')\n", 0o755),
		"notexecutable:1":  script("#!/bin/sh\nexec misbehave\n", 0o644),
		"shellwrapper:1":   script("#!/bin/sh\n# waits for its child and hands signals on\nmisbehave 'serve' . &\npid=$!\ntrap 'kill $pid; wait $pid; exit 0' TERM\nwait $pid\n", 0o755),
		"execwrapper:1":    script("#!/bin/sh\nset -e\necho preparing\nexec /misbehave serve\n", 0o755),
		"deafshell:1":      script("#!/bin/sh\n/misbehave deaf serve\n", 0o755),
		"crlflater:1":      script("#!/bin/sh\ncd /\n./step.sh\n", 0o755, "/step.sh", "#!/bin/sh\r\necho hi\r\n"),
		"python:1":         python,
		"node:1":           node,
		"nginx:1":          func(context.Context) (remote.Taggable, error) { return kit.Nginx("<h1>nginx is well</h1>\n") },
		"nginxdaemon:1": func(context.Context) (remote.Taggable, error) {
			img, err := kit.Nginx("")
			if err != nil {
				return nil, err
			}
			return reconfigure(img, func(c *v1.Config) { c.Cmd = nil })
		},
		"redis:1": func(context.Context) (remote.Taggable, error) { return kit.Redis() },
	}
	return all
}

const accounts = "root:x:0:0:root:/:/none\napp:x:1000:1000:app:/:/none\n"

// misbehave is the image of test/programs/misbehave, changed.
func misbehave(change func(*v1.Config, map[string]kit.File), arch ...func() string) func(context.Context) (remote.Taggable, error) {
	return func(ctx context.Context) (remote.Taggable, error) {
		built := runtime.GOARCH
		for _, a := range arch {
			built = a()
		}
		files, err := misbehaveFiles(ctx, built)
		if err != nil {
			return nil, err
		}
		config := v1.Config{Entrypoint: []string{"/misbehave"}, Env: []string{"PATH=/:/bin"}}
		change(&config, files)
		return kit.BuildImage(runtime.GOARCH, config, files)
	}
}

func misbehaveFiles(ctx context.Context, arch string) (map[string]kit.File, error) {
	program, err := kit.Program(ctx, "misbehave", arch)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading a test program: %w", err)
	}
	return map[string]kit.File{
		"/misbehave":  {Mode: 0o755, Data: data},
		"/etc/passwd": {Mode: 0o644, Data: []byte(accounts)},
		"/etc/group":  {Mode: 0o644, Data: []byte("root:x:0:\napp:x:1000:\n")},
		"/tmp/":       {Mode: 0o1777},
	}, nil
}

// foreignProgram is an architecture that this machine is not of.
func foreignProgram() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func foreignManifest(ctx context.Context) (remote.Taggable, error) { return foreign(ctx) }

func foreign(ctx context.Context) (v1.Image, error) {
	files, err := misbehaveFiles(ctx, foreignProgram())
	if err != nil {
		return nil, err
	}
	return kit.BuildImage(foreignProgram(), v1.Config{Entrypoint: []string{"/misbehave"}}, files)
}

func foreignIndex(ctx context.Context) (remote.Taggable, error) {
	img, err := foreign(ctx)
	if err != nil {
		return nil, err
	}
	return mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: foreignProgram()}},
	}), nil
}

// reconfigure changes the config of an image.
func reconfigure(img v1.Image, change func(*v1.Config)) (v1.Image, error) {
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading an image's config: %w", err)
	}
	config := *file.Config.DeepCopy()
	change(&config)
	return mutate.Config(img, config)
}

// dynamic is a program of this machine without its loader and libraries.
func dynamic(context.Context) (remote.Taggable, error) {
	data, err := os.ReadFile("/bin/cat")
	if err != nil {
		return nil, fmt.Errorf("reading a program of this machine: %w", err)
	}
	return kit.BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{"/app"}}, map[string]kit.File{"/app": {Mode: 0o755, Data: data}})
}

// machineCode is the smallest program that there is: a few instructions, by GOARCH.
func machineCode(code map[string][]byte) func(context.Context) (remote.Taggable, error) {
	return func(context.Context) (remote.Taggable, error) {
		const base, header = 0x400000, 64 + 56
		text := code[runtime.GOARCH]
		machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
		le := binary.LittleEndian
		b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
		b = le.AppendUint16(b, 2) // an executable
		b = le.AppendUint16(b, machine)
		b = le.AppendUint32(b, 1)
		b = le.AppendUint64(b, base+header) // entry
		b = le.AppendUint64(b, 64)          // program headers
		b = le.AppendUint64(b, 0)
		b = le.AppendUint32(b, 0)
		for _, n := range []uint16{64, 56, 1, 64, 0, 0} {
			b = le.AppendUint16(b, n)
		}
		b = le.AppendUint32(b, 1) // load
		b = le.AppendUint32(b, 5) // read and execute
		size := uint64(header + len(text))
		for _, n := range []uint64{0, base, base, size, size, 0x1000} {
			b = le.AppendUint64(b, n)
		}
		b = append(b, text...)
		return kit.BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{"/app"}}, map[string]kit.File{"/app": {Mode: 0o755, Data: b}})
	}
}

// FatSize is how much the image fat:1 takes when it is unpacked, in bytes.
const FatSize = 192 << 20

func fat(ctx context.Context) (remote.Taggable, error) {
	files, err := misbehaveFiles(ctx, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	files["/fat"] = kit.File{Mode: 0o644, Data: make([]byte, FatSize)}
	return kit.BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{"/misbehave"}}, files)
}

// busybox is a shell with the usual commands, and misbehave.
func busybox(change func(*v1.Config), more map[string]kit.File) func(context.Context) (remote.Taggable, error) {
	return func(ctx context.Context) (remote.Taggable, error) {
		files, err := misbehaveFiles(ctx, runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		box, err := kit.MachineFiles("/bin/busybox")
		if err != nil {
			return nil, fmt.Errorf("reading busybox (run scripts/setup.sh test): %w", err)
		}
		maps.Copy(files, box)
		for applet := range strings.FieldsSeq("sh cat echo env sleep ls mkdir rm kill touch test grep httpd nc sed wget id") {
			files["/bin/"+applet] = kit.File{Link: "busybox"}
		}
		files["/usr/bin/env"] = kit.File{Link: "/bin/busybox"}
		maps.Copy(files, more)
		config := v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin:/usr/bin:/"}}
		if change != nil {
			change(&config)
		}
		return kit.BuildImage(runtime.GOARCH, config, files)
	}
}

// script is busybox with a script as its entrypoint, and further scripts by path.
func script(text string, mode int64, more ...string) func(context.Context) (remote.Taggable, error) {
	files := map[string]kit.File{"/start.sh": {Mode: mode, Data: []byte(text)}}
	for i := 0; i+1 < len(more); i += 2 {
		files[more[i]] = kit.File{Mode: 0o755, Data: []byte(more[i+1])}
	}
	return busybox(func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"/start.sh"}, nil }, files)
}

// python is this machine's Python with the standard library, without what nobody needs in a container.
func python(context.Context) (remote.Taggable, error) {
	program, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		return nil, fmt.Errorf("looking for Python (run scripts/setup.sh test): %w", err)
	}
	library := "/usr/lib/" + filepath.Base(program)
	files, err := kit.MachineFiles(program)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(library, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case "__pycache__", "test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "pydoc_data", "distutils", "turtledemo":
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		files[path] = kit.File{Mode: 0o644, Data: data}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading Python's library: %w", err)
	}
	files["/usr/bin/python3"] = kit.File{Link: program}
	files["/tmp/"] = kit.File{Mode: 0o1777}
	return kit.BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{"/usr/bin/python3", "-u", "-c"}, Env: []string{"PATH=/usr/bin", "PYTHONDONTWRITEBYTECODE=1"}, WorkingDir: "/srv"}, files)
}

// node is this machine's Node.js.
func node(context.Context) (remote.Taggable, error) {
	program, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("looking for Node.js (run scripts/setup.sh test): %w", err)
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return nil, fmt.Errorf("looking for Node.js: %w", err)
	}
	files, err := kit.MachineFiles(program)
	if err != nil {
		return nil, err
	}
	// Debian's Node.js keeps three of its own modules outside of the program.
	for _, module := range []string{"acorn", "cjs-module-lexer", "undici"} {
		for _, dir := range []string{"/usr/share/nodejs/", "/usr/share/node_modules/"} {
			_ = filepath.WalkDir(dir+module, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return nil //nolint:nilerr // other builds of Node.js have none
				}
				data, err := os.ReadFile(path)
				files[path] = kit.File{Mode: 0o644, Data: data}
				return err
			})
		}
	}
	files["/app/server.js"] = kit.File{Mode: 0o644, Data: []byte(serverJS)}
	return kit.BuildImage(runtime.GOARCH, v1.Config{Entrypoint: []string{program}, Env: []string{"PATH=/usr/bin"}, WorkingDir: "/app"}, files)
}

const serverJS = `const http = require('http');
const host = process.env.HOST || '0.0.0.0', port = process.env.PORT || 8080;
http.createServer((req, res) => setTimeout(() => res.end('node is well\n'), process.env.DELAY || 0)).listen(port, host, () => console.log('listening on http://' + host + ':' + port));
`
