// Receives results or credentials with amqplib: stores each message, then acks it.
// Settings: AMQP_URL, QUEUE, DATABASE; for sealed credentials PRIVATE_KEYS, WORKER_KEYS and RECIPIENT.
import amqp from "amqplib";
import { Inbox } from "./inbox.mjs";

const inbox = new Inbox(process.env.DATABASE ?? "inbox.json");
const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/");
const channel = await connection.createChannel();
await channel.prefetch(50);

let last = Promise.resolve(); // one message after the other
const { consumerTag } = await channel.consume(process.env.QUEUE ?? "provisioner.secrets", (message) => {
  if (message === null) throw new Error("RabbitMQ has cancelled the consumer: the queue was deleted");
  last = last.then(async () => {
    console.log(await inbox.keep(message.content)); // if it throws, the message is not acked
    channel.ack(message);
  });
});

process.on("SIGTERM", async () => {
  await channel.cancel(consumerTag);
  await last;
  await connection.close();
});
