package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTokenNeverShowsItsValue(t *testing.T) {
	const secret = "ya29.secret"
	tok := Token{Value: secret, Expiry: time.Unix(1e9, 0)}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("minted", "token", tok, "list", []Token{tok})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("minted", "token", tok, "list", []Token{tok})
	marshalled, err := json.Marshal(map[string]any{"token": tok, "pointer": &tok})
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{"slog": log.String(), "json": string(marshalled), "String": tok.String(), "GoString": tok.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		shown[verb] = fmt.Sprintf(verb, tok) + fmt.Sprintf(verb, &tok) + fmt.Sprintf(verb, []any{tok})
	}
	for how, text := range shown {
		if strings.Contains(text, secret) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", secret)) {
			t.Errorf("%s shows the value of a token: %s", how, text)
		}
	}
	if got, want := tok.String(), "[token c5b3d1c6, expires 2001-09-09T01:46:40Z]"; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(Token{}), "[no token]"; got != want {
		t.Errorf("the zero Token prints %s, want %s", got, want)
	}
}
