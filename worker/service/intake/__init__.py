"""`provisioner intake`: department events over HTTP, published to RabbitMQ before they are answered."""
