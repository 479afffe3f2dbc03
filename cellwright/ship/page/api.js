// The server's API: JSON in, JSON or events out; an error is its three parts in one sentence.

export class Refused extends Error {}

async function ask(path, body, signal) {
  const options = body
    ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal }
    : { signal };
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const { rule, came, instead } = await answer.json();
    throw new Refused(`${rule}; got ${came}; ${instead}.`);
  }
  return answer;
}

export async function json(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

// Every event of a stream: its name ("" for a piece of text) and its data.
export async function* events(path, body, signal) {
  const answer = await ask(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (held + value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = /^(?:event: (\w+)\n)?data: (.*)$/.exec(block);
      yield { name: name ?? "", data: JSON.parse(data) };
    }
  }
}
