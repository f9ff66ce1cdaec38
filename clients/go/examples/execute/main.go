// Command execute runs a workflow and waits for its answer, then runs another one and prints its events as they
// arrive.
//
// Against `n8n-gateway dev --ready-file ready.json`:
//
//	go run ./examples/execute -ready-file ready.json
//
// Against any gateway, with one workflow for both:
//
//	go run ./examples/execute -url https://gateway.example.com -token "$TOKEN" -workflow 01939f1e-…
//
// With -signed an API key calls in place of the token and signs: the ready file's, or that of the environment's
// N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET.
//
// -protocol is connect (default), grpc or grpc-web. The exit code is 0 when both runs succeeded, 1 when a call or a run
// failed, 2 when the arguments are wrong.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"n8ngateway"
	v1 "n8ngateway/v1"
)

// usageError says what is wrong with the arguments.
type usageError string

func (e usageError) Error() string { return string(e) }

type place struct {
	url, token, apiKey, clientSecret, tenant, echo, stream string
}

func main() {
	protocol := flag.String("protocol", "connect", "connect, grpc or grpc-web")
	readyFile := flag.String("ready-file", "", "JSON written by `n8n-gateway dev --ready-file`")
	url := flag.String("url", "", "URL of the gateway")
	token := flag.String("token", "", "session token")
	workflow := flag.String("workflow", "", "id of the workflow to run")
	signed := flag.Bool("signed", false, "call with an API key, and sign")
	flag.Parse()
	where := place{url: *url, token: *token, echo: *workflow, stream: *workflow}
	where.apiKey, where.clientSecret = os.Getenv("N8N_GATEWAY_API_KEY"), os.Getenv("N8N_GATEWAY_CLIENT_SECRET")
	os.Exit(explain(run(where, *readyFile, *protocol, *signed)))
}

func run(where place, readyFile, protocol string, signed bool) error {
	options, spoken := map[string][]n8ngateway.Option{
		"connect":  nil,
		"grpc":     {n8ngateway.WithGRPC()},
		"grpc-web": {n8ngateway.WithConnectOptions(connect.WithGRPCWeb())},
	}[protocol]
	if !spoken {
		return usageError("-protocol is connect, grpc or grpc-web")
	}
	if readyFile != "" {
		var err error
		if where, err = readReadyFile(readyFile, protocol); err != nil {
			return err
		}
	}
	identity := n8ngateway.WithToken(where.token)
	known, needed := where.token != "", "-token"
	if signed {
		identity = n8ngateway.WithSigning(where.apiKey, where.clientSecret)
		known = where.apiKey != "" && where.clientSecret != ""
		needed = "N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET in the environment"
	}
	if where.url == "" || !known || where.echo == "" {
		return usageError("give -ready-file, or -url, -workflow and " + needed)
	}
	options = append(options, identity, n8ngateway.WithTenant(where.tenant))
	client := n8ngateway.New(where.url, options...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := execute(ctx, client, where.echo); err != nil {
		return err
	}
	return executeStream(ctx, client, where.stream)
}

// execute runs a workflow, waits, and prints the answer. The key makes it safe to repeat the call.
func execute(ctx context.Context, client *n8ngateway.Client, workflow string) error {
	answer, err := client.Executions.Execute(ctx, &v1.ExecuteRequest{
		WorkflowId:     workflow,
		Data:           hello(),
		Metadata:       map[string]string{"source": "example"},
		IdempotencyKey: rand.Text(),
	})
	if err != nil {
		return err
	}
	fmt.Println(protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Format(answer))
	if !answer.GetSuccess() {
		return fmt.Errorf("execution %s ended as %s", answer.GetExecutionId(), answer.GetStatus())
	}
	return nil
}

// executeStream runs a workflow and prints each event when it arrives, with the seconds since the call.
func executeStream(ctx context.Context, client *n8ngateway.Client, workflow string) error {
	started := time.Now()
	request := &v1.ExecuteStreamRequest{
		WorkflowId: workflow,
		Data:       hello(),
		Metadata:   map[string]string{"source": "example"},
	}
	resume := func(ctx context.Context, where n8ngateway.Break) (*n8ngateway.Events, error) {
		fmt.Fprintf(os.Stderr, "the stream of %s broke after event %d\n", where.ExecutionID, where.LastSequence)
		if where.Attempt > 3 {
			return nil, nil
		}
		return client.Executions.WatchExecution(ctx, &v1.WatchExecutionRequest{
			ExecutionId:   where.ExecutionID,
			AfterSequence: where.LastSequence,
		})
	}
	for event, err := range n8ngateway.Follow(ctx, client.Executions, request, resume) {
		if err != nil {
			return err
		}
		fmt.Printf("+%.3fs  %3d  %s\n", time.Since(started).Seconds(), event.GetSequence(), describe(event))
	}
	return nil
}

func hello() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"message": structpb.NewStringValue("hello")}}
}

func describe(event *v1.ExecutionEvent) string {
	switch event := event.GetEvent().(type) {
	case *v1.ExecutionEvent_Started:
		return "started"
	case *v1.ExecutionEvent_NodeStarted:
		return "node_started " + event.NodeStarted.GetNodeName()
	case *v1.ExecutionEvent_NodeFinished:
		return "node_finished " + event.NodeFinished.GetNodeName()
	case *v1.ExecutionEvent_Chunk:
		return fmt.Sprintf("chunk       %s: %s", event.Chunk.GetNodeName(), content(event.Chunk))
	case *v1.ExecutionEvent_Completed:
		end := event.Completed
		return fmt.Sprintf("completed   %d credits, %d ms", end.GetCreditsUsed(), end.GetExecutionTimeMs())
	case *v1.ExecutionEvent_Failed:
		return "failed      " + event.Failed.GetStatus().GetMessage()
	default:
		return "an event that is newer than this client"
	}
}

func content(chunk *v1.ExecutionChunk) string {
	switch content := chunk.GetContent().(type) {
	case *v1.ExecutionChunk_Json:
		return protojson.MarshalOptions{}.Format(content.Json)
	case *v1.ExecutionChunk_Data:
		return fmt.Sprintf("%q", content.Data)
	default:
		return fmt.Sprintf("%q", chunk.GetText())
	}
}

// readReadyFile returns what dev has written; its doors are on this machine and without TLS.
func readReadyFile(path, protocol string) (place, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return place{}, usageError("the ready file cannot be read: " + err.Error())
	}
	var ready struct {
		HTTPURL        string            `json:"http_url"`
		GRPCURL        string            `json:"grpc_url"`
		Token          string            `json:"token"`
		APIKey         string            `json:"api_key"`
		ClientSecret   string            `json:"client_secret"`
		OrganizationID string            `json:"organization_id"`
		Workflows      map[string]string `json:"workflows"`
	}
	if err := json.Unmarshal(text, &ready); err != nil {
		return place{}, usageError(path + " is no ready file of `n8n-gateway dev`: " + err.Error())
	}
	url := ready.HTTPURL
	if protocol == "grpc" {
		url = "http://" + ready.GRPCURL
	}
	return place{
		url: url, token: ready.Token, apiKey: ready.APIKey, clientSecret: ready.ClientSecret,
		tenant: ready.OrganizationID, echo: ready.Workflows["echo"], stream: ready.Workflows["stream"],
	}, nil
}

func explain(err error) int {
	var failed *connect.Error
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "execute:", err)
		return 2
	case errors.As(err, &failed):
		fmt.Fprintln(os.Stderr, "the call failed:", n8ngateway.ErrorInfoOf(err))
	default:
		fmt.Fprintln(os.Stderr, "the run failed:", err)
	}
	return 1
}
