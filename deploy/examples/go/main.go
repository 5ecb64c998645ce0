// One unary call, one stream and one refused request to a hybrid-router: go run . [HOST:PORT]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	routerv1 "example.com/hybrid-router-caller/gen/router/v1"
)

// Only UNAVAILABLE is retried: the router answers it when nothing was billed. The stream is retried by nobody.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "router.v1.RouterService", "method": "Generate"},
             {"service": "router.v1.RouterService", "method": "Explain"}],
    "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"]}
  }]
}`

const messageBytesLimit = 32 << 20 // the router's own default

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesLimit)),
		// The router allows a ping every 30 s; a model may think longer than that without a byte.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 45 * time.Second, Timeout: 20 * time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	router := routerv1.NewRouterServiceClient(connection)
	for _, step := range []func(context.Context, routerv1.RouterServiceClient) error{unary, stream, refused} {
		if err := step(context.Background(), router); err != nil {
			log.Fatal(err)
		}
	}
}

// unary asks, waits for the whole answer, and goes on with the conversation.
func unary(ctx context.Context, router routerv1.RouterServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	request := &routerv1.GenerateRequest{
		Prompt: prompt(user("Which of these two contracts ends first, and why does that matter?")),
		Caller: &routerv1.Caller{Tenant: "acme", User: "u-17", Session: "go-1"},
	}
	response, err := router.Generate(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("unary:", text(response.Answer))
	report("unary", response.Decision, response.Accounting)

	// The answer goes back as it came: thinking and signatures are the model's to read.
	answer := &routerv1.Message{Role: routerv1.Role_ROLE_ASSISTANT, Parts: response.Answer.Parts}
	request.Prompt.Messages = append(request.Prompt.Messages, answer, user("Say it in one sentence."))
	response, err = router.Generate(ctx, request)
	if err != nil {
		return err
	}
	report("second turn", response.Decision, response.Accounting)
	return nil
}

// stream prints text as it comes; cancelling the context before the end hangs up on the provider.
func stream(ctx context.Context, router routerv1.RouterServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	events, err := router.StreamGenerate(ctx, &routerv1.StreamGenerateRequest{
		Prompt: prompt(user("Tell me about the first one.")),
		Caller: &routerv1.Caller{Tenant: "acme", User: "u-17", Session: "go-2"},
	})
	if err != nil {
		return err
	}
	var decision *routerv1.Decision
	fmt.Print("stream: ")
	for {
		message, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch event := message.Event.(type) {
		case *routerv1.StreamGenerateResponse_Decided:
			decision = event.Decided.Decision
		case *routerv1.StreamGenerateResponse_Delta:
			fmt.Print(event.Delta.GetText())
		case *routerv1.StreamGenerateResponse_Finished:
			fmt.Println()
			report("stream", decision, event.Finished.Accounting)
		}
	}
}

// refused sends a request no provider takes, and prints what the router says about it.
func refused(ctx context.Context, router routerv1.RouterServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request := &routerv1.GenerateRequest{Prompt: prompt(user("Hello"))}
	request.Prompt.MaxOutputTokens = -1
	_, err := router.Generate(ctx, request)
	refusal := status.Convert(err)
	if refusal.Code() != codes.InvalidArgument {
		return fmt.Errorf("expected InvalidArgument, got %w", err)
	}
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("refused:", refusal.Code(), detail.Reason)
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fmt.Printf("refused: %s: %s\n", violation.Field, violation.Description)
			}
		case *errdetails.RetryInfo: // not for this error: for load and rate limits
			fmt.Println("retry after", detail.RetryDelay.AsDuration())
		}
	}
	return nil
}

func prompt(messages ...*routerv1.Message) *routerv1.Prompt {
	return &routerv1.Prompt{
		System:          []string{"You answer questions about contracts, briefly."},
		Messages:        messages,
		MaxOutputTokens: 500,
	}
}

func user(words string) *routerv1.Message {
	part := &routerv1.Part{Kind: &routerv1.Part_Text{Text: &routerv1.TextPart{Text: words}}}
	return &routerv1.Message{Role: routerv1.Role_ROLE_USER, Parts: []*routerv1.Part{part}}
}

func text(answer *routerv1.Answer) (words string) {
	for _, part := range answer.Parts {
		words += part.GetText().GetText() // thinking and tool calls have none
	}
	return words
}

func report(what string, decision *routerv1.Decision, bill *routerv1.Accounting) {
	cost := "unknown" // which is not zero
	if bill.TotalNanoUsd != nil {
		cost = fmt.Sprintf("%d nano-USD", *bill.TotalNanoUsd)
	}
	fmt.Printf("%s: route %s (%s), cost %s, cache read %d tokens\n",
		what, decision.Route, decision.Reason, cost, bill.GetCacheReport().GetReadTokens())
}
