// Command chat asks the gateway one thing and prints the answer as it is made.
//
// Standard output gets the text, standard error one line about how it ended: the finish reason and the tokens, that it
// was cancelled, or the error. The exit code is 0, 1 after an error of the call, 2 after one of the command line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	routerv1 "trunkline.example/chat/gen/trunkline/router/v1"
)

func main() {
	os.Exit(run())
}

func run() int {
	target := flag.String("target", "127.0.0.1:4001", "the gateway's gRPC `address`")
	model := flag.String("model", "demo/echo", "the model, by `name`")
	key := flag.String("key", "", "the caller's `key`")
	timeout := flag.Duration("timeout", time.Minute, "the deadline of the whole call")
	cancelAfter := flag.Int("cancel-after", 0, "cancel after so many pieces of text; 0 means never")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: chat [flags] PROMPT")
		flag.PrintDefaults()
		return 2
	}

	// Without TLS, for a gateway on this machine; credentials.NewTLS(nil) for one behind a certificate.
	connection, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer connection.Close()

	// The deadline travels to the gateway and from there upstream. One `cancel` stops the call wherever it stands.
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()

	pieces, cancelled := 0, false
	answer, err := Ask(ctx, routerv1.NewChatServiceClient(connection), *key, *model, flag.Arg(0), func(text string) {
		if cancelled {
			return
		}
		fmt.Print(text)
		pieces++
		if pieces == *cancelAfter {
			cancelled = true
			cancel()
		}
	})
	if pieces > 0 {
		fmt.Println()
	}

	var failure *GatewayError
	switch {
	case cancelled:
		fmt.Fprintln(os.Stderr, "cancelled")
	case errors.As(err, &failure):
		fmt.Fprintf(os.Stderr, "error reason=%s code=%s retry_after=%s request_id=%s: %s\n", orDash(failure.Reason),
			failure.Code, seconds(failure.RetryAfter), orDash(failure.RequestID()), failure.Message)
		return 1
	default:
		fmt.Fprintf(os.Stderr, "finish=%s input_tokens=%s output_tokens=%s\n",
			finishName(answer.FinishReason), count(answer.Usage.InputTokens), count(answer.Usage.OutputTokens))
	}
	return 0
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func seconds(duration *time.Duration) string {
	if duration == nil {
		return "-"
	}
	return strconv.FormatFloat(duration.Seconds(), 'f', -1, 64)
}

// count prints a count that was not reported as "-", which is not the same as zero.
func count(tokens *int64) string {
	if tokens == nil {
		return "-"
	}
	return strconv.FormatInt(*tokens, 10)
}
