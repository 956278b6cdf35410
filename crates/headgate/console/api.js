// Asking the box. The token stays in this tab and ends with it.

const TOKEN = "headgate-token";
// A box that does not answer within this time is told as such.
const DEADLINE = 15_000;

class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

function request(method, path, body, signal) {
  const headers = {};
  // Over a forwarded Unix socket nobody needs one.
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  const options = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  return fetch(path, options);
}

async function refusal(response) {
  const error = (await response.json().catch(() => ({}))).error ?? {};
  const details = (error.details ?? []).join(" ");
  const text = [error.message ?? `the box answers ${response.status}`, details].filter(Boolean).join(": ");
  return new Refused(response.status, error.code ?? "", text);
}

async function ask(path, method = "GET", body = undefined) {
  const response = await request(method, path, body, AbortSignal.timeout(DEADLINE));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

// Calls `tell(name, data)` for each event until `signal` says that it is enough, or the stream ends.
async function listen(tell, signal) {
  const response = await request("GET", "/v1/events", undefined, signal);
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("event")) tell(field("event"), JSON.parse(field("data") ?? "null"));
    }
  }
}
