package trunkline.example;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import trunkline.inference.v1.ChatOuterClass.FinishReason;
import trunkline.inference.v1.Usage.TokenUsage;

/**
 * Asks the gateway one thing and prints the answer as it is made.
 *
 * <p>Standard output gets the text, standard error one line about how it ended: the finish reason and the tokens, that
 * it was cancelled, or the error. The exit code is 0, 1 after an error of the call, 2 after one of the command line.
 */
public final class Main {
    // System.out writes in the platform's charset, which may be unable to write an answer.
    private static final PrintStream OUT = utf8(FileDescriptor.out);
    private static final PrintStream ERR = utf8(FileDescriptor.err);

    private Main() {}

    public static void main(String[] arguments) throws InterruptedException {
        Settings settings;
        try {
            settings = Settings.parse(arguments);
        } catch (IllegalArgumentException wrong) {
            ERR.println(wrong.getMessage());
            ERR.println("usage: chat [--target T] [--model M] [--key K] [--timeout 5s] [--cancel-after N] PROMPT");
            System.exit(2);
            return;
        }
        // Without TLS, for a gateway on this machine; TlsChannelCredentials.create() for one behind a certificate.
        ManagedChannel channel =
                Grpc.newChannelBuilder(settings.target, InsecureChannelCredentials.create()).build();
        int exitCode = run(settings, new ChatClient(channel, settings.key));
        channel.shutdownNow();
        System.exit(exitCode);
    }

    private static int run(Settings settings, ChatClient client) throws InterruptedException {
        Printer printer = new Printer(settings.cancelAfter);
        String ending;
        int exitCode = 0;
        try {
            ChatClient.Answer answer = client.ask(settings.model, settings.prompt, settings.timeout, printer::print);
            ending = answer.isCancelled() ? "cancelled" : finishLine(answer.finishReason(), answer.usage());
        } catch (GatewayException failure) {
            ending = errorLine(failure);
            exitCode = 1;
        }
        if (printer.pieces > 0) {
            OUT.println();
        }
        ERR.println(ending);
        return exitCode;
    }

    private static String finishLine(FinishReason reason, TokenUsage usage) {
        String name = reason.name().replaceFirst("^FINISH_REASON_", "").toLowerCase(Locale.ROOT);
        // A count that was not reported is not zero.
        String input = usage.hasInputTokens() ? Long.toString(usage.getInputTokens()) : "-";
        String output = usage.hasOutputTokens() ? Long.toString(usage.getOutputTokens()) : "-";
        return "finish=%s input_tokens=%s output_tokens=%s".formatted(name, input, output);
    }

    private static String errorLine(GatewayException failure) {
        String retryAfter = failure.retryAfterSeconds()
                .map(BigDecimal::stripTrailingZeros)
                .map(BigDecimal::toPlainString)
                .orElse("-");
        return "error reason=%s code=%s retry_after=%s request_id=%s: %s".formatted(
                failure.reason().orElse("-"), failure.code(), retryAfter, failure.requestId().orElse("-"),
                failure.getMessage());
    }

    private static PrintStream utf8(FileDescriptor descriptor) {
        return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
    }

    /** Prints pieces of text until there were as many as were wanted. */
    private static final class Printer {
        private final int wanted;
        private int pieces;

        Printer(int wanted) {
            this.wanted = wanted;
        }

        boolean print(String text) {
            OUT.print(text);
            OUT.flush();
            pieces++;
            return pieces != wanted;
        }
    }

    private static final class Settings {
        private static final Pattern DURATION = Pattern.compile("(\\d+(?:\\.\\d+)?)(ms|s|m|h)");

        private String target = "127.0.0.1:4001";
        private String model = "demo/echo";
        private String key = "";
        private Duration timeout = Duration.ofMinutes(1);
        private int cancelAfter;
        private String prompt;

        static Settings parse(String[] arguments) {
            Settings settings = new Settings();
            for (int index = 0; index < arguments.length; index++) {
                String argument = arguments[index];
                if (argument.startsWith("--")) {
                    index++;
                    if (index == arguments.length) {
                        throw new IllegalArgumentException(argument + " takes a value");
                    }
                    settings.set(argument, arguments[index]);
                } else if (settings.prompt == null) {
                    settings.prompt = argument;
                } else {
                    throw new IllegalArgumentException("exactly one PROMPT is needed");
                }
            }
            if (settings.prompt == null) {
                throw new IllegalArgumentException("exactly one PROMPT is needed");
            }
            return settings;
        }

        private void set(String flag, String value) {
            switch (flag) {
                case "--target" -> target = value;
                case "--model" -> model = value;
                case "--key" -> key = value;
                case "--timeout" -> timeout = duration(value);
                case "--cancel-after" -> cancelAfter = pieces(value);
                default -> throw new IllegalArgumentException(flag + " is not known");
            }
        }

        private static int pieces(String text) {
            try {
                return Integer.parseUnsignedInt(text);
            } catch (NumberFormatException wrong) {
                throw new IllegalArgumentException("--cancel-after takes a number of pieces, not " + text, wrong);
            }
        }

        private static Duration duration(String text) {
            Matcher matcher = DURATION.matcher(text);
            if (!matcher.matches()) {
                throw new IllegalArgumentException("--timeout takes a duration such as 500ms, 5s or 1m, not " + text);
            }
            long nanosPerUnit = switch (matcher.group(2)) {
                case "ms" -> 1_000_000L;
                case "s" -> 1_000_000_000L;
                case "m" -> 60_000_000_000L;
                default -> 3_600_000_000_000L;
            };
            BigDecimal nanos = new BigDecimal(matcher.group(1)).multiply(BigDecimal.valueOf(nanosPerUnit));
            return Duration.ofNanos(nanos.longValue());
        }
    }
}
