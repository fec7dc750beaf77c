package gke

import "sync"

// A background is work that somebody waits for. It takes no more once that
// has begun.
type background struct {
	mu     sync.Mutex
	closed bool
	all    sync.WaitGroup
}

func (b *background) Go(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.all.Go(f)
	}
}

func (b *background) Wait() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.all.Wait()
}
