"""Networks: loading, the policy, the scorer (trunk and scalar head), frozen references, export."""
