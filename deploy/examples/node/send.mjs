// Sends a department event with amqplib: mandatory, persistent and confirmed.
// node send.mjs KIND DEPARTMENT_ID [NAME]
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [kind, departmentId, name] = process.argv.slice(2);
if (!departmentId) {
  console.error("usage: node send.mjs created|renamed|removed DEPARTMENT_ID [NAME]; AMQP_URL is the broker");
  process.exit(2);
}
// Store the event before you send it. If sending fails, send the same event again, under the same id.
const event = {
  specversion: "1.0",
  id: randomUUID(),
  source: "https://hr.example.com/departments",
  type: `department.${kind}.v1`,
  time: new Date().toISOString(),
  data: { department_id: departmentId, name },
};

const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/");
const channel = await connection.createConfirmChannel();
let returned = false;
channel.on("return", () => { returned = true; }); // comes before the confirm
const options = { contentType: "application/cloudevents+json", persistent: true, mandatory: true };
channel.publish("departments", `department.${kind}`, Buffer.from(JSON.stringify(event)), options);
await channel.waitForConfirms(); // rejects if RabbitMQ does not take the event
await connection.close();
if (returned) throw new Error("no queue takes this event: it is lost unless you send it again");
console.log("sent", event.id);
