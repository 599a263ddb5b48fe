package autopsy

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// maxSegments bounds the program headers that are looked at; real programs have about a dozen.
const maxSegments = 128

var errBadELF = errors.New("the file begins like a program and then makes no sense")

// program is what the first bytes of an ELF file say.
type program struct {
	architecture string // GOARCH, or "" if we have no word for it
	machine      elf.Machine
	order        binary.ByteOrder
	wide         bool   // 64 bit
	interpreter  string // PT_INTERP; empty for static programs
}

// goarch names machines as Go does.
func goarch(m elf.Machine, order binary.ByteOrder, wide bool) string {
	little := order == binary.LittleEndian
	switch {
	case m == elf.EM_X86_64 && wide:
		return "amd64"
	case m == elf.EM_386:
		return "386"
	case m == elf.EM_AARCH64 && little:
		return "arm64"
	case m == elf.EM_ARM && little:
		return "arm"
	case m == elf.EM_RISCV && wide:
		return "riscv64"
	case m == elf.EM_S390:
		return "s390x"
	case m == elf.EM_PPC64 && little:
		return "ppc64le"
	case m == elf.EM_PPC64:
		return "ppc64"
	case m == elf.EM_LOONGARCH:
		return "loong64"
	case m == elf.EM_MIPS && wide && little:
		return "mips64le"
	}
	return ""
}

// readELF reads the header and the segments of an ELF file. It does not use debug/elf to read: that reads sections too,
// of which a hostile file can have many.
func readELF(head []byte, read func(offset int64, n int) ([]byte, error)) (p program, err error) {
	if len(head) < 52 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return p, errBadELF
	}
	p.wide = head[elf.EI_CLASS] == byte(elf.ELFCLASS64)
	p.order = binary.LittleEndian
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		p.order = binary.BigEndian
	}
	p.machine = elf.Machine(p.order.Uint16(head[18:]))
	p.architecture = goarch(p.machine, p.order, p.wide)
	at, size, count := int64(p.order.Uint32(head[28:])), int(p.order.Uint16(head[42:])), int(p.order.Uint16(head[44:]))
	least := 32
	if p.wide {
		if len(head) < 64 {
			return p, errBadELF
		}
		at, size, count = int64(p.order.Uint64(head[32:])), int(p.order.Uint16(head[54:])), int(p.order.Uint16(head[56:])) //nolint:gosec // checked below
		least = 56
	}
	if count == 0 {
		return p, nil
	}
	if at < 0 || size < least || count > maxSegments {
		return p, errBadELF
	}
	table, err := read(at, size*count)
	if err != nil {
		return p, err
	}
	for ; len(table) >= size; table = table[size:] {
		if elf.ProgType(p.order.Uint32(table)) == elf.PT_INTERP {
			p.interpreter, err = p.readInterpreter(table, read)
			return p, err
		}
	}
	return p, nil
}

// readInterpreter reads the path that a PT_INTERP segment points to.
func (p program) readInterpreter(segment []byte, read func(int64, int) ([]byte, error)) (string, error) {
	at, n := int64(p.order.Uint32(segment[4:])), int64(p.order.Uint32(segment[16:]))
	if p.wide {
		at, n = int64(p.order.Uint64(segment[8:])), int64(p.order.Uint64(segment[32:])) //nolint:gosec // checked below
	}
	if at < 0 || n < 2 || n > maxPath { // the kernel has the same limits
		return "", errBadELF
	}
	b, err := read(at, int(n))
	if err != nil {
		return "", err
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	if len(name) == 0 {
		return "", errBadELF
	}
	return string(name), nil
}

// evidence says in words what the header is.
func (p program) evidence() string {
	bits := 32
	if p.wide {
		bits = 64
	}
	if p.architecture == "" {
		return fmt.Sprintf("ELF, %d bit, machine %d", bits, uint16(p.machine))
	}
	return fmt.Sprintf("ELF, %d bit, machine %d (%s)", bits, uint16(p.machine), p.architecture)
}

// native lists what a processor runs besides programs of its own kind.
var native = map[string]string{"amd64": "386", "arm64": "arm", "ppc64le": "", "s390x": ""}

// runs reports whether the machine runs a program, and whether that is certain.
func (m Machine) runs(p program) (yes, certain bool) {
	if p.architecture == "" || m.Architecture == "" {
		return true, false
	}
	if p.architecture == m.Architecture {
		return true, true
	}
	if slices.Contains(m.Emulated, p.architecture) {
		return true, false
	}
	if native[m.Architecture] == p.architecture {
		return true, false // nearly all of these processors do
	}
	return false, !m.OtherFormats
}
