package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	inferencev1 "trunkline.example/chat/gen/trunkline/inference/v1"
	routerv1 "trunkline.example/chat/gen/trunkline/router/v1"
)

// Answer is how a stream ended.
type Answer struct {
	FinishReason inferencev1.FinishReason
	Usage        *inferencev1.TokenUsage // never nil; a count that was not reported is nil
}

// Ask streams the answer to a prompt into onText, piece by piece. Cancelling ctx ends the call, here, in the gateway
// and upstream. Every error is a *GatewayError.
func Ask(
	ctx context.Context, client routerv1.ChatServiceClient, key, model, prompt string, onText func(string),
) (*Answer, error) {
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	stream, err := client.StreamChat(ctx, &routerv1.StreamChatRequest{Chat: &inferencev1.Chat{
		Model: model,
		Messages: []*inferencev1.Message{{
			Role:        inferencev1.Role_ROLE_USER,
			ContentForm: inferencev1.ContentForm_CONTENT_FORM_STRING,
			Parts: []*inferencev1.Part{
				{Part: &inferencev1.Part_Text{Text: &inferencev1.TextPart{Text: prompt}}},
			},
		}},
	}})
	if err != nil {
		return nil, newGatewayError(err, nil)
	}

	answer, finished := &Answer{Usage: &inferencev1.TokenUsage{}}, false
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			header, _ := stream.Header()
			return nil, newGatewayError(err, header)
		}
		for _, event := range response.Events {
			switch event := event.Event.(type) { // a kind this program does not know is skipped
			case *inferencev1.ChatEvent_PartStarted:
				if text := event.PartStarted.GetBegin().GetText().GetText(); text != "" {
					onText(text)
				}
			case *inferencev1.ChatEvent_TextDelta:
				if event.TextDelta.Text != "" {
					onText(event.TextDelta.Text)
				}
			case *inferencev1.ChatEvent_UsageReported:
				if usage := event.UsageReported.Usage; usage != nil {
					answer.Usage = usage // a later report replaces an earlier one
				}
			case *inferencev1.ChatEvent_ChoiceFinished:
				answer.FinishReason, finished = event.ChoiceFinished.FinishReason, true
			}
		}
	}
	if !finished { // status OK alone does not make an answer complete
		header, _ := stream.Header()
		failure := newGatewayError(status.Error(codes.Unavailable, "the stream ended before the answer did"), header)
		failure.Reason = "STREAM_TRUNCATED"
		return nil, failure
	}
	return answer, nil
}

// finishName returns "tool_calls" for FINISH_REASON_TOOL_CALLS.
func finishName(reason inferencev1.FinishReason) string {
	return strings.ToLower(strings.TrimPrefix(reason.String(), "FINISH_REASON_"))
}
