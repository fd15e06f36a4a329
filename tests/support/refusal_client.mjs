// Node's fetch as a client of refused POSTs. Jobs and outcomes as in refusal_client.py.

const PIECE = new Uint8Array(64 * 1024).fill(0x20);
const parallel = Number(process.argv[2]);

async function* pieces(job) {
  const started = performance.now();
  for (let sent = 0; sent < job.bytes; ) {
    const piece = PIECE.subarray(0, Math.min(PIECE.length, job.bytes - sent));
    yield piece;
    sent += piece.length;
    const wait = job.rate ? started + (sent / job.rate) * 1000 - performance.now() : 0;
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

async function outcome(job) {
  // fetch knows the length of a buffer only; a stream is always chunked.
  const body = job.chunked ? ReadableStream.from(pieces(job)) : Buffer.alloc(job.bytes, 0x20);
  try {
    const response = await fetch(job.url, { method: "POST", headers: job.headers, body, duplex: "half" });
    await response.arrayBuffer();
    return response.status;
  } catch (error) {
    return `${error}: ${error.cause ?? ""}`;
  }
}

let input = "";
for await (const text of process.stdin) input += text;
const jobs = JSON.parse(input);
const outcomes = new Array(jobs.length);
let next = 0;
async function work() {
  while (next < jobs.length) {
    const index = next++;
    outcomes[index] = await outcome(jobs[index]);
  }
}
await Promise.all(Array.from({ length: parallel }, work));
console.log(JSON.stringify(outcomes));
