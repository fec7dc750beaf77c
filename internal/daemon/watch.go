package daemon

import (
	"context"
	"crypto/sha256"
	"io"
	"os"
	"time"
)

// watchEvery is how often files are looked at. Content is compared on a timer
// because nothing can fool that: editors rename, ConfigMaps swap links.
const watchEvery = 500 * time.Millisecond

// Watch calls changed when the content of a file has changed and stays as it
// is for a moment, until the context ends. Files may name others each time.
func Watch(ctx context.Context, files func() []string, changed func()) {
	var w watch
	w.changed(files())
	w.run(ctx, files, changed)
}

// run is Watch from the last look on.
func (w *watch) run(ctx context.Context, files func() []string, changed func()) {
	dirty := false
	every(ctx, watchEvery, func() {
		now := w.changed(files())
		if dirty && !now {
			changed()
			now = w.changed(files()) // what changed while it was being read is read again
		}
		dirty = now
	})
}

// A watch tells when files have changed.
type watch struct {
	seen map[string]fingerprint
}

// A fingerprint identifies what a file holds; stat spares reading it.
type fingerprint struct {
	stat os.FileInfo
	sum  [sha256.Size]byte // zero: the file cannot be read
}

// changed looks at the files and reports whether any differs from the last
// look. The first look reports nothing.
func (w *watch) changed(files []string) bool {
	now := make(map[string]fingerprint, len(files))
	changed := false
	for _, name := range files {
		before, known := w.seen[name]
		now[name] = look(name, before)
		changed = changed || known && now[name].sum != before.sum
	}
	w.seen = now
	return changed
}

func look(name string, before fingerprint) (f fingerprint) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() { // to read a pipe would empty it
		return f
	}
	if before.stat != nil && os.SameFile(info, before.stat) && info.ModTime().Equal(before.stat.ModTime()) && info.Size() == before.stat.Size() &&
		time.Since(info.ModTime()) > 3*time.Second { // a younger file may change within its clock's grain
		return fingerprint{info, before.sum}
	}
	file, err := os.Open(name)
	if err != nil {
		return f
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(file, 64<<20)); err != nil {
		return f
	}
	f.stat = info
	h.Sum(f.sum[:0])
	return f
}

// contents identifies what the files hold together.
func contents(files []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range files {
		f := look(name, fingerprint{})
		h.Write(f.sum[:])
	}
	h.Sum(sum[:0])
	return sum
}
