package n8ngateway_test

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"n8ngateway"
	v1 "n8ngateway/v1"
	"n8ngateway/v1/n8ngatewayv1connect"
)

const (
	signingKey    = "gw_test_abcdefghijklmnop_secretpart"
	signingSecret = "gw_secret_of_the_tests"
)

// verifier notes of each request whether its signature holds, over what arrives.
type verifier struct {
	mutex  sync.Mutex
	nonces map[string]bool
	wrong  []string
}

func (v *verifier) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		request.Body = io.NopCloser(bytes.NewReader(body))
		v.note(request, body)
		next.ServeHTTP(writer, request)
	})
}

func (v *verifier) note(request *http.Request, body []byte) {
	contentType, message := request.Header.Get("Content-Type"), body
	if strings.HasPrefix(contentType, "application/grpc") || strings.HasPrefix(contentType, "application/connect+") {
		compressed := body[0] == 1
		message = body[5:]
		if compressed {
			message = gunzip(message)
		}
	} else if request.Header.Get("Content-Encoding") == "gzip" {
		message = gunzip(message)
	}
	if strings.HasPrefix(contentType, "application/grpc") && !strings.HasPrefix(contentType, "application/grpc-web") {
		contentType = "application/grpc"
	}
	digest := sha256.Sum256(message)
	mac := hmac.New(sha256.New, []byte(signingSecret))
	fmt.Fprintf(mac, "GW2-HMAC-SHA256\n%s\n%s\n%s\ngw_test_abcdefghijklmnop\n%s\n%s\n%s\n%s",
		request.Header.Get("X-Timestamp"), request.Header.Get("X-Nonce"), request.Header.Get("X-Tenant-Id"),
		request.Method, request.URL.RequestURI(), contentType, hex.EncodeToString(digest[:]))
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if request.Header.Get("X-Signature") != "v2="+hex.EncodeToString(mac.Sum(nil)) {
		v.wrong = append(v.wrong, request.URL.Path+" "+request.Header.Get("Content-Type"))
	}
	if request.Header.Get("X-Api-Key") != signingKey {
		v.wrong = append(v.wrong, "the key is missing")
	}
	v.nonces[request.Header.Get("X-Nonce")] = true
}

func gunzip(data []byte) []byte {
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	plain, _ := io.ReadAll(reader)
	return plain
}

func (v *verifier) serve(t *testing.T, service *executions, options ...n8ngateway.Option) *n8ngateway.Client {
	t.Helper()
	v.nonces = map[string]bool{}
	mux := http.NewServeMux()
	mux.Handle(n8ngatewayv1connect.NewExecutionServiceHandler(service))
	server := httptest.NewUnstartedServer(v.wrap(mux))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return n8ngateway.New(server.URL, append(options, n8ngateway.WithSigning(signingKey, signingSecret))...)
}

func TestEveryCallIsSigned(t *testing.T) {
	gzipped := n8ngateway.WithConnectOptions(connect.WithSendGzip())
	protocols := map[string][]n8ngateway.Option{
		"connect":      nil,
		"connect json": {n8ngateway.WithConnectOptions(connect.WithProtoJSON())},
		"connect gzip": {gzipped},
		"grpc":         {n8ngateway.WithGRPC()},
		"grpc gzip":    {n8ngateway.WithGRPC(), gzipped},
		"grpc-web":     {n8ngateway.WithConnectOptions(connect.WithGRPCWeb())},
	}
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			var checked verifier
			client := checked.serve(t, echo(), append(options, n8ngateway.WithTenant("o0"))...)
			metadata := map[string]string{}
			for number := range 50 {
				metadata[fmt.Sprint("k", number)] = "v"
			}
			if _, err := client.Executions.Execute(t.Context(), &v1.ExecuteRequest{Metadata: metadata}); err != nil {
				t.Fatal(err)
			}
			if _, err := streamed(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			if len(checked.wrong) > 0 || len(checked.nonces) != 2 {
				t.Errorf("wrong: %v, %d nonces", checked.wrong, len(checked.nonces))
			}
		})
	}
}

func TestEachAttemptIsSignedAnew(t *testing.T) {
	attempts := 0
	service := &executions{unary: func() error {
		attempts++
		if attempts < 3 {
			return connect.NewError(connect.CodeUnavailable, errors.New("away"))
		}
		return nil
	}}
	var checked verifier
	client := checked.serve(t, service, n8ngateway.WithRetry(fast))
	if _, err := client.Executions.GetExecution(t.Context(), &v1.GetExecutionRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(checked.wrong) > 0 || len(checked.nonces) != 3 {
		t.Errorf("wrong: %v, %d nonces", checked.wrong, len(checked.nonces))
	}
}

func TestSignREST(t *testing.T) {
	checked := verifier{nonces: map[string]bool{}}
	server := httptest.NewServer(checked.wrap(http.NotFoundHandler()))
	defer server.Close()
	signer := n8ngateway.NewSigner(signingKey, signingSecret)
	for _, body := range []io.Reader{nil, strings.NewReader(`{"a": 1}`)} {
		request, _ := http.NewRequest(http.MethodPut, server.URL+"/api/v1/workflows/a%2Fb?page_size=2", body)
		request.Header.Set("X-Tenant-Id", "o0")
		if body != nil {
			request.Header.Set("Content-Type", "application/json")
		}
		if err := signer.SignREST(request); err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	if len(checked.wrong) > 0 || len(checked.nonces) != 2 {
		t.Errorf("wrong: %v, %d nonces", checked.wrong, len(checked.nonces))
	}
}
