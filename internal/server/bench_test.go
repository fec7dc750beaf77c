package server_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gcemds/gcemds/internal/fleet"
	"github.com/gcemds/gcemds/internal/journal"
	"github.com/gcemds/gcemds/internal/server"
)

// What the handler itself costs, without net/http below it.
func BenchmarkHandler(b *testing.B) {
	var router fleet.Router
	router.Set(fleet.Route{Instance: newInstance(b)})
	s := server.New(&router, journal.New(1024), server.Limits{})
	for name, path := range map[string]string{
		"leaf":      "/computeMetadata/v1/instance/name",
		"listing":   "/computeMetadata/v1/instance/",
		"recursive": "/computeMetadata/v1/?recursive=true&alt=json",
		"token":     "/computeMetadata/v1/instance/service-accounts/default/token",
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = "127.0.0.1:8080"
			r.Header.Set("Metadata-Flavor", "Google")
			r.Header.Set("User-Agent", "bench")
			r.Header.Set("Accept", "*/*")
			r = r.WithContext(s.HTTP(b.Context(), "main", slog.New(slog.DiscardHandler)).ConnContext(r.Context(), &net.TCPConn{}))
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				s.ServeHTTP(w, r)
			}
			if w.status != http.StatusOK {
				b.Fatalf("status %d", w.status)
			}
		})
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { return io.Discard.Write(b) }
