package trunkline.example;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Predicate;
import trunkline.inference.v1.ChatEventOuterClass.ChatEvent;
import trunkline.inference.v1.ChatOuterClass.Chat;
import trunkline.inference.v1.ChatOuterClass.ContentForm;
import trunkline.inference.v1.ChatOuterClass.FinishReason;
import trunkline.inference.v1.ChatOuterClass.Message;
import trunkline.inference.v1.ChatOuterClass.Part;
import trunkline.inference.v1.ChatOuterClass.Role;
import trunkline.inference.v1.ChatOuterClass.TextPart;
import trunkline.inference.v1.Usage.TokenUsage;
import trunkline.router.v1.ChatServiceGrpc;
import trunkline.router.v1.ChatServiceOuterClass.StreamChatRequest;
import trunkline.router.v1.ChatServiceOuterClass.StreamChatResponse;

/** Streams answers from the gateway, on behalf of one caller. */
public final class ChatClient {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final Channel channel;

    /** {@code key} is the caller's key, empty for none. */
    public ChatClient(Channel channel, String key) {
        Metadata metadata = new Metadata();
        if (!key.isEmpty()) {
            metadata.put(AUTHORIZATION, "Bearer " + key);
        }
        this.channel = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    /** How a stream ended; {@code isCancelled} when {@code onText} wanted no more. */
    public record Answer(FinishReason finishReason, TokenUsage usage, boolean isCancelled) {}

    /**
     * Streams the answer to a prompt into {@code onText}, piece by piece. When that returns false the call is
     * cancelled, here, in the gateway and upstream.
     */
    public Answer ask(String model, String prompt, Duration timeout, Predicate<String> onText)
            throws GatewayException, InterruptedException {
        AtomicReference<Metadata> header = new AtomicReference<>();
        AtomicReference<Metadata> trailer = new AtomicReference<>();
        // The deadline travels to the gateway and from there upstream.
        BlockingClientCall<?, StreamChatResponse> call = ChatServiceGrpc.newBlockingV2Stub(channel)
                .withInterceptors(MetadataUtils.newCaptureMetadataInterceptor(header, trailer))
                .withDeadlineAfter(timeout)
                .streamChat(StreamChatRequest.newBuilder().setChat(chat(model, prompt)).build());
        FinishReason finishReason = null;
        TokenUsage usage = TokenUsage.getDefaultInstance();
        try {
            for (StreamChatResponse response = call.read(); response != null; response = call.read()) {
                for (ChatEvent event : response.getEventsList()) {
                    String text = textOf(event);
                    if (!text.isEmpty() && !onText.test(text)) {
                        call.cancel("enough", null);
                        return new Answer(FinishReason.FINISH_REASON_UNSPECIFIED, usage, true);
                    }
                    switch (event.getEventCase()) {
                        case USAGE_REPORTED -> usage = event.getUsageReported().getUsage(); // replaces an earlier one
                        case CHOICE_FINISHED -> finishReason = event.getChoiceFinished().getFinishReason();
                        default -> { } // a kind this program does not know is skipped
                    }
                }
            }
        } catch (StatusException failure) {
            throw new GatewayException(failure, header.get());
        }
        if (finishReason == null) { // status OK alone does not make an answer complete
            throw GatewayException.truncated(header.get());
        }
        return new Answer(finishReason, usage, false);
    }

    private static String textOf(ChatEvent event) {
        return switch (event.getEventCase()) {
            case PART_STARTED -> event.getPartStarted().getBegin().getText().getText();
            case TEXT_DELTA -> event.getTextDelta().getText();
            default -> "";
        };
    }

    private static Chat chat(String model, String prompt) {
        Part text = Part.newBuilder().setText(TextPart.newBuilder().setText(prompt)).build();
        Message message = Message.newBuilder()
                .setRole(Role.ROLE_USER)
                .setContentForm(ContentForm.CONTENT_FORM_STRING)
                .addParts(text)
                .build();
        return Chat.newBuilder().setModel(model).addMessages(message).build();
    }
}
