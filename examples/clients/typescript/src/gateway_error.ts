import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";

interface Details {
  /** A value of trunkline.errors.v1.ErrorReason without its prefix; undefined when no gateway answered. */
  reason?: string | undefined;
  /** The gRPC code, such as "NOT_FOUND", which also tells about a reason this program does not know. */
  code: string;
  /** What the message mentions, for programs. */
  metadata: Record<string, string>;
  /** How long to wait before another attempt; undefined when no time is known. */
  retryAfterSeconds?: number | undefined;
}

/**
 * A failed call with what its google.rpc.Status says, which travels in the trailer grpc-status-details-bin, also after
 * a stream has begun.
 */
export class GatewayError extends Error {
  readonly reason: string | undefined;
  readonly code: string;
  readonly metadata: Record<string, string>;
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, { reason, code, metadata, retryAfterSeconds }: Details) {
    super(message);
    this.name = "GatewayError";
    this.reason = reason;
    this.code = code;
    this.metadata = metadata;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** Finds the call in the gateway's logs and records; undefined when the call never reached it. */
  get requestId(): string | undefined {
    return this.metadata["request_id"];
  }

  static from(error: unknown, header: Headers): GatewayError {
    const failed = ConnectError.from(error);
    const info = failed.findDetails(ErrorInfoSchema).find(({ domain }) => domain === "trunkline");
    const delay = failed.findDetails(RetryInfoSchema)[0]?.retryDelay;
    return new GatewayError(failed.rawMessage, {
      reason: info?.reason,
      code: codeName(failed.code),
      metadata: { ...requestIdOf(header), ...info?.metadata },
      retryAfterSeconds: delay && durationMs(delay) / 1000,
    });
  }

  /** The error of a stream that ended well and without its answer's end. */
  static truncated(header: Headers): GatewayError {
    return new GatewayError("the stream ended before the answer did", {
      reason: "STREAM_TRUNCATED",
      code: codeName(Code.Unavailable),
      metadata: requestIdOf(header),
    });
  }
}

function requestIdOf(header: Headers): Record<string, string> {
  const id = header.get("x-request-id");
  return id === null ? {} : { request_id: id };
}

/** Returns gRPC's "NOT_FOUND" for NotFound. Connect spells one code in American English, gRPC in British. */
function codeName(code: Code): string {
  return code === Code.Canceled ? "CANCELLED" : Code[code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}
