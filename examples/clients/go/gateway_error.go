package main

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// GatewayError is a failed call with what its google.rpc.Status says, which travels in the trailer
// grpc-status-details-bin, also after a stream has begun.
type GatewayError struct {
	// A value of trunkline.errors.v1.ErrorReason without its prefix; empty when no gateway answered.
	Reason string
	// The gRPC code, which also tells about a reason this program does not know.
	Code code.Code
	// For people.
	Message string
	// What the message mentions, for programs.
	Metadata map[string]string
	// How long to wait before another attempt; nil when no time is known.
	RetryAfter *time.Duration
}

func newGatewayError(err error, header metadata.MD) *GatewayError {
	failed := status.Convert(err)
	failure := &GatewayError{Code: code.Code(failed.Code()), Message: failed.Message(), Metadata: map[string]string{}}
	if ids := header.Get("x-request-id"); len(ids) > 0 {
		failure.Metadata["request_id"] = ids[0]
	}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "trunkline" {
				failure.Reason = detail.Reason
				for name, value := range detail.Metadata {
					failure.Metadata[name] = value
				}
			}
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay.AsDuration()
			failure.RetryAfter = &delay
		}
	}
	return failure
}

// RequestID finds the call in the gateway's logs and records. Empty when the call never reached it.
func (e *GatewayError) RequestID() string {
	return e.Metadata["request_id"]
}

func (e *GatewayError) Error() string {
	return fmt.Sprintf("%s (%s): %s", e.Reason, e.Code, e.Message)
}
