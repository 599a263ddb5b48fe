package autopsy

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/trysail/trysail"
)

// maxAccounts bounds what is read of /etc/passwd and /etc/group, in bytes.
const maxAccounts = 256 << 10

// identity is the user that a container runs as.
type identity struct {
	known    bool
	uid, gid uint64
}

// account finds the image's USER.
func (x *examiner) account() {
	user, group, _ := strings.Cut(x.c.User, ":")
	if user == "" {
		user = "0"
	}
	uid, err := strconv.ParseUint(user, 10, 32)
	numeric := err == nil
	fields, seen := x.entry("/etc/passwd", user, numeric)
	switch {
	case numeric:
		x.id = identity{known: true, uid: uid}
	case !seen:
		return
	case fields == nil:
		x.found("RUN-USER", trysail.Certain, fmt.Sprintf("User %s is not in the image's /etc/passwd.", mark(user)),
			fmt.Sprintf("Add to the Dockerfile: RUN adduser -D %s (Alpine) or RUN useradd %s (Debian); or use a numeric USER such as 1000.", clean(user), clean(user)),
			"USER of the image: "+mark(x.c.User))
		return
	default:
		x.id.uid, err = strconv.ParseUint(fields[2], 10, 32)
		x.id.known = err == nil
	}
	if fields != nil {
		if gid, err := strconv.ParseUint(fields[3], 10, 32); err == nil {
			x.id.gid = gid
		}
	}
	x.group(group)
}

func (x *examiner) group(group string) {
	if group == "" {
		return
	}
	if gid, err := strconv.ParseUint(group, 10, 32); err == nil {
		x.id.gid = gid
		return
	}
	fields, seen := x.entry("/etc/group", group, false)
	if seen && fields == nil {
		x.found("RUN-USER", trysail.Certain, fmt.Sprintf("Group %s is not in the image's /etc/group.", mark(group)),
			fmt.Sprintf("Add to the Dockerfile: RUN addgroup %s; or use a numeric group.", clean(group)), "USER of the image: "+mark(x.c.User))
		return
	}
	if fields != nil {
		if gid, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			x.id.gid = gid
		}
	}
}

// entry finds the line of a user or group by name, or by number. fields is nil if there is none; seen is false if that
// cannot be said.
func (x *examiner) entry(file, name string, byNumber bool) (fields []string, seen bool) {
	b, err := x.head(file, maxAccounts)
	if err != nil {
		x.note(err)
		return nil, x.err == nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		if !byNumber && f[0] == name || byNumber && f[2] == name {
			return f, true
		}
	}
	return nil, len(b) < maxAccounts
}

// mayRun checks the permissions of a program for the container's user. Groups that a user has besides its own are not
// looked at, so nothing here is certain.
func (x *examiner) mayRun(file string, info fs.FileInfo) {
	if !x.id.known || x.id.uid == 0 {
		return
	}
	for dir := path.Dir(file); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if d, at, err := x.stat(dir); err == nil && !x.allowed(d) {
			x.found("RUN-PERM", trysail.Likely, fmt.Sprintf("User %s may not enter %s, in which %s is.", mark(x.c.User), mark(at), mark(path.Base(file))),
				fmt.Sprintf("Add to the Dockerfile: RUN chmod a+rx %s, or put the program elsewhere.", clean(at)), fmt.Sprintf("mode of %s: %04o", mark(at), d.Mode().Perm()))
			return
		}
	}
	if !x.allowed(info) {
		x.found("RUN-PERM", trysail.Likely, fmt.Sprintf("User %s may not execute %s.", mark(x.c.User), mark(file)),
			fmt.Sprintf("Add to the Dockerfile: RUN chmod a+rx %s", clean(file)), fmt.Sprintf("its mode is %04o", info.Mode().Perm()))
	}
}

// allowed reports whether the user may execute a file or enter a directory.
func (x *examiner) allowed(info fs.FileInfo) bool {
	owner, group := uint64(0), uint64(0)
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		owner, group = uint64(s.Uid), uint64(s.Gid)
	}
	mode := info.Mode().Perm()
	switch {
	case owner == x.id.uid:
		return mode&0o100 != 0
	case group == x.id.gid:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
