"""What more ranks and more work cost: collectives counted, a model of them on paper, and what it says of a cluster."""
