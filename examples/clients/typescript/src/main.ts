/**
 * Asks the gateway one thing and prints the answer as it is made.
 *
 * Standard output gets the text, standard error one line about how it ended: the finish reason and the tokens, that it
 * was cancelled, or the error. The exit code is 0, 1 after an error of the call, 2 after one of the command line.
 */
import { parseArgs } from "node:util";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ChatService } from "../gen/trunkline/router/v1/chat_service_pb.js";
import { ask, finishName } from "./ask.js";
import { GatewayError } from "./gateway_error.js";

interface Settings {
  target: string;
  model: string;
  key: string;
  timeoutMs: number;
  cancelAfter: number;
  prompt: string;
}

function parseCommandLine(): Settings {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      target: { type: "string", default: "127.0.0.1:4001" },
      model: { type: "string", default: "demo/echo" },
      key: { type: "string", default: "" },
      timeout: { type: "string", default: "1m" },
      "cancel-after": { type: "string", default: "0" },
    },
  });
  const [prompt, ...rest] = positionals;
  if (prompt === undefined || rest.length > 0) {
    throw new Error("exactly one PROMPT is needed");
  }
  const cancelAfter = Number(values["cancel-after"]);
  if (!Number.isInteger(cancelAfter) || cancelAfter < 0) {
    throw new Error(`--cancel-after takes a number of pieces, not ${values["cancel-after"]}`);
  }
  const { target, model, key } = values;
  return { target, model, key, prompt, cancelAfter, timeoutMs: parseDuration(values.timeout) };
}

function parseDuration(text: string): number {
  const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? [];
  if (amount === undefined || unit === undefined) {
    throw new Error(`--timeout takes a duration such as 500ms, 5s or 1m, not ${text}`);
  }
  return Math.round(Number(amount) * (units[unit] ?? 1));
}

async function run({ target, model, key, timeoutMs, cancelAfter, prompt }: Settings): Promise<number> {
  // Without TLS, for a gateway on this machine; https:// for one behind a certificate.
  const client = createClient(ChatService, createGrpcTransport({ baseUrl: `http://${target}` }));
  const controller = new AbortController(); // its one abort() stops the call wherever it stands
  let pieces = 0;
  const onText = (text: string): void => {
    if (controller.signal.aborted) {
      return;
    }
    process.stdout.write(text);
    pieces++;
    if (pieces === cancelAfter) {
      controller.abort();
    }
  };

  let ending: string;
  let exitCode = 0;
  try {
    // The deadline travels to the gateway and from there upstream.
    const answer = await ask(client, { key, model, prompt, timeoutMs, signal: controller.signal, onText });
    const { inputTokens, outputTokens } = answer.usage ?? {}; // a count that was not reported is not zero
    const tokens = `input_tokens=${inputTokens ?? "-"} output_tokens=${outputTokens ?? "-"}`;
    ending = `finish=${finishName(answer.finishReason)} ${tokens}`;
  } catch (error) {
    if (!(error instanceof GatewayError)) {
      throw error;
    }
    const { reason, code, retryAfterSeconds, requestId, message } = error;
    const fields = `code=${code} retry_after=${retryAfterSeconds ?? "-"} request_id=${requestId ?? "-"}`;
    ending = `error reason=${reason ?? "-"} ${fields}: ${message}`;
    exitCode = 1;
  }
  if (controller.signal.aborted) {
    ending = "cancelled";
    exitCode = 0;
  }
  if (pieces > 0) {
    process.stdout.write("\n");
  }
  process.stderr.write(`${ending}\n`);
  return exitCode;
}

let settings: Settings;
try {
  settings = parseCommandLine();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  console.error("usage: chat [--target T] [--model M] [--key K] [--timeout 5s] [--cancel-after N] PROMPT");
  process.exit(2);
}
process.exitCode = await run(settings);
