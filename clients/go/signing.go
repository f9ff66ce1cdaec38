package n8ngateway

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
)

const (
	signatureAlgorithm = "GW2-HMAC-SHA256"
	frameHead          = 5
	flagCompressed     = 1
)

// Signer signs requests with an API key's client secret (version 2).
type Signer struct {
	apiKey, clientSecret string
}

// NewSigner returns a signer. The client secret belongs to the API key: both were shown together.
func NewSigner(apiKey, clientSecret string) *Signer {
	return &Signer{apiKey, clientSecret}
}

// WithSigning presents an API key and signs each call, each attempt of it anew, with the key's client secret.
func WithSigning(apiKey, clientSecret string) Option {
	return func(s *settings) {
		s.identity.apiKey = apiKey
		s.signer = NewSigner(apiKey, clientSecret)
	}
}

// SignREST adds the headers of a signature to a request of the gateway's REST API, which is then sent as it is: its
// body and headers must not change any more. X-Tenant-ID, if there is to be one, is set before.
func (s *Signer) SignREST(request *http.Request) error {
	body, err := takeBody(request)
	if err != nil {
		return err
	}
	s.sign(request, request.URL.RequestURI(), request.Header.Get("Content-Type"), body)
	return nil
}

// signRPC does so for Connect, gRPC and gRPC-Web, whose signatures cover the message without its frame and compression.
func (s *Signer) signRPC(request *http.Request) error {
	if request.Header.Get("X-Signature") != "" {
		return nil
	}
	body, err := takeBody(request)
	if err != nil {
		return err
	}
	message, err := messageOf(request, body)
	if err != nil {
		return err
	}
	// A copy, for a call that is repeated wants a signature of its own.
	request.Header = request.Header.Clone()
	contentType := request.Header.Get("Content-Type")
	if strings.HasPrefix(contentType, "application/grpc") && !strings.HasPrefix(contentType, "application/grpc-web") {
		contentType = "application/grpc"
	}
	s.sign(request, procedureOf(request.URL), contentType, message)
	return nil
}

func (s *Signer) sign(request *http.Request, target, contentType string, message []byte) {
	header := request.Header
	header.Set("X-Api-Key", s.apiKey)
	header.Set("X-Timestamp", strconv.FormatInt(time.Now().Unix(), 10))
	header.Set("X-Nonce", rand.Text())
	header.Set("X-Signature", s.signature(signedParts{
		timestamp:   header.Get("X-Timestamp"),
		nonce:       header.Get("X-Nonce"),
		tenant:      header.Get("X-Tenant-Id"),
		httpMethod:  request.Method,
		target:      target,
		contentType: contentType,
	}, message))
}

type signedParts struct {
	timestamp, nonce, tenant, httpMethod, target, contentType string
}

func (s *Signer) signature(parts signedParts, message []byte) string {
	digest := sha256.Sum256(message)
	keyID := s.apiKey[:max(strings.LastIndexByte(s.apiKey, '_'), 0)]
	text := strings.Join([]string{
		signatureAlgorithm, parts.timestamp, parts.nonce, parts.tenant, keyID,
		parts.httpMethod, parts.target, parts.contentType, hex.EncodeToString(digest[:]),
	}, "\n")
	mac := hmac.New(sha256.New, []byte(s.clientSecret))
	mac.Write([]byte(text))
	return "v2=" + hex.EncodeToString(mac.Sum(nil))
}

// signingClient signs what connect-go sends, in whichever protocol: only here are the very bytes known.
type signingClient struct {
	client connect.HTTPClient
	signer *Signer
}

func (c *signingClient) Do(request *http.Request) (*http.Response, error) {
	if err := c.signer.signRPC(request); err != nil {
		return nil, fmt.Errorf("signing the request: %w", err)
	}
	return c.client.Do(request)
}

// takeBody reads the body to its end, and leaves one to be sent that can be read again.
func takeBody(request *http.Request) ([]byte, error) {
	if request.Body == nil || request.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	if err := request.Body.Close(); err != nil {
		return nil, err
	}
	request.ContentLength = int64(len(body))
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	request.Body, err = request.GetBody()
	return body, err
}

// procedureOf returns /package.Service/Method, without what a base URL has before it.
func procedureOf(target *url.URL) string {
	parts := strings.Split(target.Path, "/")
	return "/" + strings.Join(parts[max(len(parts)-2, 0):], "/")
}

func messageOf(request *http.Request, body []byte) ([]byte, error) {
	contentType := request.Header.Get("Content-Type")
	switch {
	case request.Method == http.MethodGet:
		return messageOfQuery(request.URL.Query())
	case strings.HasPrefix(contentType, "application/grpc"):
		return unframed(body, request.Header.Get("Grpc-Encoding"))
	case strings.HasPrefix(contentType, "application/connect+"):
		return unframed(body, request.Header.Get("Connect-Content-Encoding"))
	default:
		return uncompressed(body, request.Header.Get("Content-Encoding"))
	}
}

func messageOfQuery(query url.Values) ([]byte, error) {
	message := []byte(query.Get("message"))
	if query.Get("base64") == "1" {
		var err error
		if message, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(string(message), "=")); err != nil {
			return nil, err
		}
	}
	return uncompressed(message, query.Get("compression"))
}

func unframed(body []byte, encoding string) ([]byte, error) {
	if len(body) < frameHead || int(binary.BigEndian.Uint32(body[1:frameHead])) != len(body)-frameHead {
		return nil, errors.New("only calls with one request message can be signed")
	}
	if body[0]&flagCompressed == 0 {
		return body[frameHead:], nil
	}
	return uncompressed(body[frameHead:], encoding)
}

func uncompressed(message []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "", "identity":
		return message, nil
	case "gzip":
		reader, err := gzip.NewReader(bytes.NewReader(message))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(reader)
	default:
		return nil, fmt.Errorf("a message in %s cannot be signed", encoding)
	}
}
