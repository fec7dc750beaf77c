package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// bpffs is where the kernel keeps programs that have names, and pins is where
// ours are: maps and links by the names they have in the code.
const (
	bpffs = "/sys/fs/bpf"
	pins  = bpffs + "/gcemds"
)

// A hook is our programs at a cgroup.
type hook struct {
	to      netip.AddrPort
	ipv6    bool   // fd20:ce::254, too
	cgroup  string // below which they act
	exclude uint64 // a cgroup below it that is left alone; 0: none
}

func (h *hook) target() []byte {
	b := h.to.Addr().AsSlice()
	b = append(b, byte(h.to.Port()>>8), byte(h.to.Port()), 0, 0)
	b = binary.NativeEndian.AppendUint64(b, h.exclude)
	six := uint64(0)
	if h.ipv6 {
		six = 1
	}
	return binary.NativeEndian.AppendUint64(b, six)
}

// readHook returns what is attached, nil if nothing is.
func readHook() (*hook, error) {
	if _, err := os.Stat(pins); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	h := &hook{}
	if m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "target"), nil); err == nil {
		defer m.Close()
		if value, err := m.LookupBytes(uint32(0)); err == nil && len(value) == sizeofTarget {
			h.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(value[:4])), binary.BigEndian.Uint16(value[4:]))
			h.exclude, h.ipv6 = binary.NativeEndian.Uint64(value[8:]), binary.NativeEndian.Uint32(value[16:]) != 0
		}
	} else if errors.Is(err, unix.EPERM) {
		return nil, noPrograms(err)
	}
	for _, p := range programs {
		l, err := link.LoadPinnedLink(filepath.Join(pins, p.name), nil)
		if err != nil {
			continue
		}
		if info, err := l.Info(); err == nil && info.Cgroup() != nil && h.cgroup == "" {
			h.cgroup = cgroupPath(info.Cgroup().CgroupId)
		}
		l.Close()
	}
	return h, nil
}

// compareHook compares our programs. What is attached at the right place is
// changed in one step; nothing gets past it meanwhile.
func compareHook(want *hook, fix bool) (differences []string, err error) {
	if want == nil {
		return removeHook(fix)
	}
	c := comparison{fix: fix}
	defer c.close()
	err = c.hook(want)
	return c.differences, err
}

func removeHook(fix bool) ([]string, error) {
	entries, err := os.ReadDir(pins)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for eBPF programs: %w", err)
	}
	if !fix {
		return []string{"eBPF programs are there, in " + pins}, nil
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(pins, e.Name())); err != nil {
			return nil, fmt.Errorf("cannot take away the eBPF programs: %w", err)
		}
	}
	if err := os.Remove(pins); err != nil {
		return nil, fmt.Errorf("cannot take away the eBPF programs: %w", err)
	}
	return []string{"eBPF programs taken away"}, nil
}

// A comparison is one run of compareHook.
type comparison struct {
	fix         bool
	differences []string
	open        []interface{ Close() error }
}

func (c *comparison) close() {
	for _, o := range c.open {
		o.Close()
	}
}

// note says what is different, or what has been done about it.
func (c *comparison) note(different, done string) {
	if c.fix {
		different = done
	}
	c.differences = append(c.differences, different)
}

func (c *comparison) hook(want *hook) error {
	id, err := cgroupID(want.cgroup)
	if err != nil && c.fix {
		return err
	} else if err != nil {
		c.note("the eBPF programs are at no cgroup, or at one that is gone", "")
		return nil
	}
	if c.fix {
		manyPages()
		if err := mountBPFFS(); err != nil {
			return err
		}
		if err := os.MkdirAll(pins, 0o700); err != nil {
			return fmt.Errorf("cannot keep eBPF programs: %w", needsRoot(err))
		}
	}
	maps := map[string]*ebpf.Map{}
	for _, spec := range mapSpecs {
		m, err := c.pinnedMap(spec)
		if err != nil {
			return err
		}
		if maps[spec.Name] = m; m == nil {
			return nil // the programs cannot be compared, and something is wrong anyway
		}
	}
	target, err := maps["target"].LookupBytes(uint32(0))
	if err != nil {
		return fmt.Errorf("cannot read the target of the eBPF programs: %w", err)
	}
	if !slices.Equal(target, want.target()) {
		c.note("the eBPF programs lead elsewhere", fmt.Sprintf("eBPF programs led to %v", want.to))
		if c.fix {
			if err := maps["target"].Put(uint32(0), want.target()); err != nil {
				return fmt.Errorf("cannot set the target of the eBPF programs: %w", err)
			}
		}
	}
	known := []string{}
	for _, spec := range mapSpecs {
		known = append(known, spec.Name)
	}
	for _, p := range programs {
		known = append(known, p.name)
		if err := c.program(p, maps, want.cgroup, id); err != nil {
			return err
		}
	}
	entries, _ := os.ReadDir(pins)
	for _, e := range entries {
		if slices.Contains(known, e.Name()) {
			continue
		}
		c.note("there is "+e.Name()+" in "+pins+", which is not ours", e.Name()+" taken from "+pins)
		if c.fix {
			if err := os.Remove(filepath.Join(pins, e.Name())); err != nil {
				return fmt.Errorf("cannot take away what is not ours: %w", err)
			}
		}
	}
	return nil
}

// pinnedMap opens a map of ours, or makes it anew; nil if there is none, or
// another one, and it shall stay so.
func (c *comparison) pinnedMap(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(pins, spec.Name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		c.open = append(c.open, m)
		if spec.Compatible(m) == nil {
			return m, nil
		}
	} else if errors.Is(err, unix.EPERM) {
		return nil, noPrograms(err)
	}
	c.note("the eBPF map "+spec.Name+" is not there, or not ours", "eBPF map "+spec.Name+" made")
	if !c.fix {
		return nil, nil
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, noPrograms(err)
	}
	c.open = append(c.open, m)
	return m, pinOver(m.Pin, path)
}

// program puts a program at its place, if it is not there.
func (c *comparison) program(p program, maps map[string]*ebpf.Map, cgroup string, id uint64) error {
	wanted, err := p.load(maps)
	if err != nil {
		return err
	}
	c.open = append(c.open, wanted)
	path := filepath.Join(pins, p.name)
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		c.open = append(c.open, l)
		info, err := l.Info()
		if err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId == id && ebpf.AttachType(info.Cgroup().AttachType) == p.attach {
			if there, err := ebpf.NewProgramFromID(info.Program); err == nil {
				c.open = append(c.open, there)
				if sameProgram(there, wanted) {
					return nil
				}
			}
			c.note("the eBPF program "+p.name+" is another one", "eBPF program "+p.name+" put right")
			if !c.fix {
				return nil
			}
			if err := l.Update(wanted); err != nil {
				return fmt.Errorf("cannot replace the eBPF program %s: %w", p.name, err)
			}
			return nil
		}
	}
	c.note("the eBPF program "+p.name+" is not at "+cgroup, "eBPF program "+p.name+" put at "+cgroup)
	if !c.fix {
		return nil
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: p.attach, Program: wanted})
	if err != nil {
		return fmt.Errorf("cannot put the eBPF program %s at %s: %w", p.name, cgroup, err)
	}
	c.open = append(c.open, l)
	return pinOver(l.Pin, path)
}

// pinOver pins in the place of what is there.
func pinOver(pin func(string) error, path string) error {
	next := path + "-next"
	os.Remove(next) // of a run that did not come to its end
	err := pin(next)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("cannot keep what is loaded at %s: %w", path, err)
	}
	return nil
}

func (p program) load(maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	fds := map[string]int{}
	for name, m := range maps {
		fds[name] = m.FD()
	}
	loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "gcemds", Type: p.kind, AttachType: p.attach, Instructions: p.code(fds), License: "Apache-2.0",
	})
	if err != nil {
		return nil, fmt.Errorf("eBPF program %s: %w", p.name, noPrograms(err))
	}
	return loaded, nil
}

// sameProgram compares the code and the maps.
func sameProgram(one, two *ebpf.Program) bool {
	a, err1 := one.Info()
	b, err2 := two.Info()
	if err1 != nil || err2 != nil || a.Tag != b.Tag {
		return false
	}
	m, ok1 := a.MapIDs()
	n, ok2 := b.MapIDs()
	return ok1 && ok2 && slices.Equal(m, n)
}

// isBPFFS reports whether what is pinned is kept.
func isBPFFS() bool {
	var s unix.Statfs_t
	return unix.Statfs(bpffs, &s) == nil && s.Type == unix.BPF_FS_MAGIC
}

// mountBPFFS makes a place to keep programs where systemd has not.
func mountBPFFS() error {
	if isBPFFS() {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=0700"); err != nil {
		return fmt.Errorf("there is no place to keep eBPF programs: %w (mount -t bpf bpf %s; a container must be given that of the machine)", err, bpffs)
	}
	return nil
}

// manyPages lets maps have the memory they need; Linux before 5.11 counts it
// against a limit of the process.
func manyPages() {
	unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
}

// probeHook tries the programs without attaching them.
func probeHook() error {
	if _, err := cgroupRoot(); err != nil {
		return err
	}
	if _, err := os.Stat(bpffs); err != nil {
		return fmt.Errorf("there is no place to keep eBPF programs: %w (a container must be given that of the machine)", err)
	}
	manyPages()
	maps := map[string]*ebpf.Map{}
	for _, spec := range mapSpecs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return noPrograms(err)
		}
		defer m.Close()
		maps[spec.Name] = m
	}
	for _, p := range programs {
		loaded, err := p.load(maps)
		if err != nil {
			return err
		}
		loaded.Close()
	}
	return nil
}

// noPrograms says what has to change so that programs can be loaded.
func noPrograms(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("programs cannot be loaded into the kernel: %w (this takes root, in a container the capability SYS_ADMIN, or BPF and NET_ADMIN)", err)
	}
	return fmt.Errorf("programs cannot be loaded into the kernel: %w (this takes Linux 5.8 or later)", err)
}
