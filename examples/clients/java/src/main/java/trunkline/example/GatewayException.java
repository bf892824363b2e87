package trunkline.example;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.math.BigDecimal;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * A failed call with what its google.rpc.Status says, which travels in the trailer grpc-status-details-bin, also after
 * a stream has begun.
 */
public final class GatewayException extends Exception {
    private static final long serialVersionUID = 1;
    private static final Metadata.Key<String> REQUEST_ID =
            Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

    private final Status.Code code;
    private final String reason;
    private final TreeMap<String, String> metadata = new TreeMap<>();
    private final BigDecimal retryAfterSeconds;

    /** Reads the details out of a failed call; {@code header} is its initial metadata, null when none arrived. */
    GatewayException(StatusException failure, Metadata header) {
        super(failure.getStatus().getDescription(), failure);
        code = failure.getStatus().getCode();
        putRequestId(header);
        String foundReason = null;
        BigDecimal foundDelay = null;
        com.google.rpc.Status status = StatusProto.fromThrowable(failure); // without details when no gateway answered
        try {
            for (Any detail : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo info = detail.unpack(ErrorInfo.class);
                    if (info.getDomain().equals("trunkline")) {
                        foundReason = info.getReason();
                        metadata.putAll(info.getMetadataMap());
                    }
                } else if (detail.is(RetryInfo.class)) {
                    Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
                    foundDelay = BigDecimal.valueOf(delay.getSeconds()).add(BigDecimal.valueOf(delay.getNanos(), 9));
                }
            }
        } catch (InvalidProtocolBufferException broken) {
            addSuppressed(broken); // a detail that does not parse is no detail; code and message stand
        }
        reason = foundReason;
        retryAfterSeconds = foundDelay;
    }

    private GatewayException(String reason, Status.Code code, String message, Metadata header) {
        super(message);
        this.reason = reason;
        this.code = code;
        retryAfterSeconds = null;
        putRequestId(header);
    }

    /** The error of a stream that ended well and without its answer's end. */
    static GatewayException truncated(Metadata header) {
        String message = "the stream ended before the answer did";
        return new GatewayException("STREAM_TRUNCATED", Status.Code.UNAVAILABLE, message, header);
    }

    private void putRequestId(Metadata header) {
        String id = header == null ? null : header.get(REQUEST_ID);
        if (id != null) {
            metadata.put("request_id", id);
        }
    }

    /** A value of trunkline.errors.v1.ErrorReason without its prefix; empty when no gateway answered. */
    public Optional<String> reason() {
        return Optional.ofNullable(reason);
    }

    /** The gRPC code, which also tells about a reason this program does not know. */
    public Status.Code code() {
        return code;
    }

    /** What the message mentions, for programs. */
    public Map<String, String> metadata() {
        return Map.copyOf(metadata);
    }

    /** How long to wait before another attempt; empty when no time is known. */
    public Optional<BigDecimal> retryAfterSeconds() {
        return Optional.ofNullable(retryAfterSeconds);
    }

    /** Finds the call in the gateway's logs and records; empty when the call never reached it. */
    public Optional<String> requestId() {
        return Optional.ofNullable(metadata.get("request_id"));
    }
}
