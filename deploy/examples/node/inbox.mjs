// Keeps results and credentials in a file: each message once, of credentials the greatest generation.
// The file stands in for your database, and for the secret store that the tokens belong in.
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { openSealed } from "./open-sealed.mjs";

export class Inbox {
  #file;
  #state = { seen: {}, outcomes: [], credentials: {} };

  constructor(file) {
    this.#file = file;
    if (existsSync(file)) this.#state = JSON.parse(readFileSync(file));
  }

  // Stores a message durably, unless its id was seen before. Then it may be acked.
  async keep(body) {
    const message = JSON.parse(body);
    if (this.#state.seen[message.id]) return `duplicate ${message.id}`;
    const told = message.type.startsWith("subaccount.credentials.")
      ? this.#keepCredentials(await this.#opened(message, body))
      : this.#keepOutcome(message.data);
    this.#state.seen[message.id] = true;
    this.#save();
    return told;
  }

  async #opened(message, body) {
    if (message.datacontenttype !== "application/jose") return message.data;
    const [ours, workers] = [process.env.PRIVATE_KEYS, process.env.WORKER_KEYS].map((file) =>
      JSON.parse(readFileSync(file)),
    );
    return openSealed(body, ours, workers, process.env.RECIPIENT);
  }

  #keepCredentials({ tenant, department_id, generation, auth_id, auth_token }) {
    const key = JSON.stringify([tenant, department_id]);
    const older = generation < (this.#state.credentials[key]?.generation ?? 0);
    if (!older) this.#state.credentials[key] = { generation, auth_id, auth_token };
    return `${older ? "dropped older" : "stored"} credentials of ${department_id}, generation ${generation}`;
  }

  #keepOutcome({ event, outcome, code, reason }) {
    this.#state.outcomes.push({ event, outcome, code, reason });
    return `stored ${outcome} of ${event?.id ?? null}`;
  }

  // Writes a new file, then puts it in the place of the old one: a crash leaves one of the two.
  #save() {
    const file = openSync(`${this.#file}.new`, "w", 0o600);
    writeSync(file, JSON.stringify(this.#state));
    fsyncSync(file);
    closeSync(file);
    renameSync(`${this.#file}.new`, this.#file);
  }
}
