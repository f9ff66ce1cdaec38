package n8ngateway

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"testing"
)

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("../../tests/data/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIKey       string `json:"api_key"`
		ClientSecret string `json:"client_secret"`
		Vectors      []struct {
			Name, Tenant, Timestamp, Nonce, Target string
			Version                                int
			HTTPMethod                             string `json:"http_method"`
			ContentType                            string `json:"content_type"`
			Message                                string `json:"message_base64"`
			Signature                              string `json:"x_signature"`
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	signer := NewSigner(file.APIKey, file.ClientSecret)
	tried := 0
	for _, vector := range file.Vectors {
		if vector.Version != 2 {
			continue
		}
		message, err := base64.StdEncoding.DecodeString(vector.Message)
		if err != nil {
			t.Fatal(err)
		}
		got := signer.signature(signedParts{
			vector.Timestamp, vector.Nonce, vector.Tenant, vector.HTTPMethod, vector.Target, vector.ContentType,
		}, message)
		if got != vector.Signature {
			t.Errorf("%s: %s, want %s", vector.Name, got, vector.Signature)
		}
		tried++
	}
	if tried < 5 {
		t.Errorf("only %d vectors", tried)
	}
}

func TestProcedureIsWithoutTheBaseURLsPath(t *testing.T) {
	for _, base := range []string{"", "/gateway", "/a/b.c"} {
		target, _ := url.Parse("https://example.com" + base + "/n8ngateway.v1.ExecutionService/Execute")
		if got := procedureOf(target); got != "/n8ngateway.v1.ExecutionService/Execute" {
			t.Errorf("%s: %s", base, got)
		}
	}
}
