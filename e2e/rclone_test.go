package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestRclone: a program, not a library, that copies from Cloud Storage with
// the identity of its machine. Cloud Storage is a few lines of this test.
func TestRclone(t *testing.T) {
	s := serve(t)
	t.Log("rclone", packageVersion(t, "rclone"))
	const object, content = "dir/object", "what the bucket has\n"
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			t.Errorf("rclone asks for %s without an access token", r.URL)
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		checkTokenInfo(t, s, token)
		if r.URL.Query().Get("alt") == "media" || strings.HasPrefix(r.URL.Path, "/media") {
			io.WriteString(w, content)
			return
		}
		info := map[string]any{"kind": "storage#object", "bucket": "bucket", "name": object, "size": "20",
			"mediaLink": "http://" + r.Host + "/media", "updated": "2026-01-02T03:04:05Z", "contentType": "text/plain"}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/o") {
			json.NewEncoder(w).Encode(map[string]any{"kind": "storage#objects", "items": []any{info}})
		} else {
			json.NewEncoder(w).Encode(info)
		}
	}))
	defer storage.Close()
	rclone := filepath.Join(layer(t), "usr/bin/rclone")
	got := s.client(t, nil, rclone, "--config=", "--gcs-endpoint="+storage.URL, "--retries=1", "cat", ":gcs:bucket/"+object)
	if got != content {
		t.Errorf("rclone cat = %q, want %q", got, content)
	}
}
